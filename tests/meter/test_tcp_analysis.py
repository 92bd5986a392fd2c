"""Retransmissions, order, duplicate acknowledgements and zero windows beside tshark's: equal, or different for a stated reason.

The reasons stand in docs/decisions/0007-tcp-analysis.md.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import zstandard
from tests.captures import SHARED, needs_shared
from tests.tshark import needs_tshark

from adumbra.metering import PacketMetering, Watch
from adumbra.schema.spec import expand_vms, parse_spec
from adumbra.tap.replay import PcapReplay

SHOP = Path(__file__).parents[2] / "examples" / "shop" / "shop.pcap.zst"
EVERYONE = parse_spec(
    """
name: everyone
cidrs: [0.0.0.0/0]
subnets: [{name: all, cidr: 0.0.0.0/0}]
vms: [{name: all, subnet: all, addresses: [0.0.0.0/0]}]
"""
)
COLUMNS = ("retransmitted_packets", "out_of_order_packets", "duplicate_acks", "zero_windows")
FIELDS = ("retransmission", "out_of_order", "duplicate_ack", "zero_window")


def ours(path: Path) -> tuple[int, ...]:
    """The sums over a capture, every segment once: all addresses are one VM's."""
    with PcapReplay(path) as source:
        tallies = [t for batch in PacketMetering(Watch(EVERYONE, expand_vms(EVERYONE)), source).batches() for t in batch]
    return tuple(sum(int(tally.column(name).sum()) for tally in tallies) for name in COLUMNS)


def tsharks(path: Path) -> tuple[int, ...]:
    command = ["tshark", "-n", "-r", str(path), "-Y", "tcp.analysis.flags", "-T", "fields"]
    command += [part for name in FIELDS for part in ("-e", f"tcp.analysis.{name}")]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    told = [row.split("\t") for row in rows]
    return tuple(sum(row[k] != "" for row in told) for k in range(len(FIELDS)))


@needs_tshark
def test_the_shop(tmp_path: Path) -> None:
    path = tmp_path / "shop.pcap"
    with SHOP.open("rb") as packed, path.open("wb") as plain:
        zstandard.ZstdDecompressor().copy_stream(packed, plain)
    assert ours(path) == tsharks(path) == (29, 0, 1, 0)


@needs_shared
@needs_tshark
@pytest.mark.parametrize(
    ("name", "want", "tshark_says"),
    [
        ("plant_141.81_merged.pcap", (8, 0, 0, 0), (8, 0, 0, 0)),
        # Repeats within 3 ms of the highest number are "out of order" there; here there is no hole that they would fill.
        ("Synchrophasor.pcap", (5603, 0, 1, 0), (4743, 860, 1, 0)),
        # One segment that fills a hole: tshark measures its time from the last segment, we from the hole's beginning.
        ("SSL.pcap", (49, 2, 35, 0), (50, 1, 35, 0)),
    ],
)
def test_recordings(name: str, want: tuple[int, ...], tshark_says: tuple[int, ...]) -> None:
    path = SHARED / name
    assert (ours(path), tsharks(path)) == (want, tshark_says)
    assert sum(want[:2]) == sum(tshark_says[:2])  # what is repeated or late is the same, whatever it is called
