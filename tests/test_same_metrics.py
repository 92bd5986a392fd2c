"""The same traffic, whichever way it comes and however it is cut, gives the same metrics, to the last figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.captures import BRIDGED, Frame, batch, erspan, ethernet, geneve, gre, ip, pcap, pcapng, udp, vxlan, write
from tests.tap.test_live_ring import Taken, block
from tests.test_shadow import watch
from tests.test_workers import alike, conversations, in_one

from adumbra.metering import PacketMetering
from adumbra.schema.records import Accounts, Frames, Intervals, Link, Losses
from adumbra.tap.ring_kernels import walk_block

FRAMES = conversations()
OPTIONS = bytes.fromhex("010380010000000a0000000b")
SOURCE, TARGET = "192.0.2.1", "192.0.2.2"


class Given:
    """Frames as a source that isn't a file gives them: in these batches."""

    name = "given"

    def __init__(self, batches: list[Frames]) -> None:
        self._batches = batches

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def __iter__(self) -> Iterator[Frames]:
        yield from self._batches

    def losses(self) -> Losses:
        return Losses()

    def progress(self) -> float | None:
        return None


def metered(batches: list[Frames]) -> tuple[list[Intervals], Accounts]:
    metering = PacketMetering(watch(), Given(batches))
    return list(metering), metering.accounts()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Intervals], Accounts]:
    """What the capture itself gives, in one file."""
    return in_one(write(tmp_path_factory.mktemp("plain") / "a.pcap", FRAMES))


def sent(protocol: int, payload: bytes) -> bytes:
    return ethernet(ip(SOURCE, TARGET, protocol, payload))


def to_port(port: int, payload: bytes) -> bytes:
    return sent(17, udp(54_321, port, payload))


WRAPPED: dict[str, Callable[[bytes], bytes]] = {
    "VXLAN": lambda frame: to_port(4789, vxlan(frame)),
    "VXLAN on Linux's old port": lambda frame: to_port(8472, vxlan(frame)),
    "Geneve with options": lambda frame: to_port(6081, geneve(frame, options=OPTIONS)),
    "an IP packet in Geneve": lambda frame: to_port(6081, geneve(frame[14:], kind=0x0800)),
    "GRE": lambda frame: sent(47, gre(frame, BRIDGED)),
    "ERSPAN I": lambda frame: sent(47, erspan(frame, 1)),
    "ERSPAN II": lambda frame: sent(47, erspan(frame, 2)),
    "ERSPAN III": lambda frame: sent(47, erspan(frame, 3, optional=True)),
    "VXLAN in Geneve": lambda frame: to_port(6081, geneve(to_port(4789, vxlan(frame))[14:], kind=0x0800)),
}


@pytest.mark.parametrize("form", ["us", "ns", "pcapng", "big-endian"])
def test_as_a_file_of_another_format(tmp_path: Path, plain: tuple[list[Intervals], Accounts], form: str) -> None:
    made = {
        "us": lambda: pcap(FRAMES, "us"), "ns": lambda: pcap(FRAMES, "ns"), "pcapng": lambda: pcapng(FRAMES),
        "big-endian": lambda: pcap(FRAMES, "ns", order=">"),
    }[form]()  # fmt: skip
    one, accounts = in_one(write(tmp_path / "a", made))
    if form == "us":  # its times are cut off: so are those of round trips
        assert accounts == plain[1]
        return
    alike(plain[0], one)
    assert accounts == plain[1]


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("snap", [None, 60])
def test_wrapped_in_a_tunnel(
    tmp_path: Path, plain: tuple[list[Intervals], Accounts], wrap: Callable[[bytes], bytes], snap: int | None
) -> None:
    """Found in a capture; also where the mirror cut the inner packets behind their headers, as AWS does."""
    frames = [Frame(frame.time_ns, wrap(frame.data[:snap])) for frame in FRAMES]
    one, accounts = in_one(write(tmp_path / "a.pcap", frames))
    alike(plain[0], one)
    assert accounts == plain[1]


ENDPOINTS: dict[str, tuple[Callable[[bytes], bytes], Link]] = {
    "VXLAN": (vxlan, Link.VXLAN),
    "Geneve": (lambda frame: geneve(frame, options=OPTIONS), Link.GENEVE),
    "VXLAN in Geneve": (lambda frame: geneve(to_port(4789, vxlan(frame))[14:], kind=0x0800), Link.GENEVE),
    "ERSPAN I": (lambda frame: erspan(frame, 1), Link.GRE),
    "ERSPAN II": (lambda frame: erspan(frame, 2), Link.GRE),
    "ERSPAN III": (lambda frame: erspan(frame, 3), Link.GRE),
}


@pytest.mark.parametrize(("wrap", "link"), ENDPOINTS.values(), ids=ENDPOINTS)
def test_at_a_tunnels_far_end(plain: tuple[list[Intervals], Accounts], wrap: Callable[[bytes], bytes], link: Link) -> None:
    frames = [Frame(frame.time_ns, wrap(frame.data), link=int(link)) for frame in FRAMES]
    one, accounts = metered([batch(frames)])
    alike(plain[0], one)
    assert accounts == plain[1]


@pytest.mark.parametrize("a_block", [7, 100, 4000])
def test_in_a_live_rings_blocks(plain: tuple[list[Intervals], Accounts], a_block: int) -> None:
    one, accounts = metered(list(ring_batches(FRAMES, a_block)))
    alike(plain[0], one)
    assert accounts == plain[1]


def ring_batches(frames: list[Frame], a_block: int) -> Iterator[Frames]:
    """The frames in blocks as the kernel fills them, each walked as the live tap does."""
    size = 1 << 21
    for at in range(0, len(frames), a_block):
        taken = [Taken(frame.data, frame.wire, frame.time_ns) for frame in frames[at : at + a_block]]
        data = np.frombuffer(bytearray(block(taken, size)), np.uint8)
        columns = [np.zeros(len(taken), np.int64) for _ in range(4)]
        found, *_ = walk_block(data, 0, size, 0, 0, 0, *columns)
        assert found == len(taken)
        offset, captured, length, time_ns = columns
        yield Frames(data, offset, captured, length, time_ns, np.ones(found, np.int64))


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, len(FRAMES)), max_size=12))
def test_cut_into_batches_anywhere(plain: tuple[list[Intervals], Accounts], cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(FRAMES)]
    one, accounts = metered([batch(FRAMES[first:end]) for first, end in pairwise(bounds)])
    alike(plain[0], one)
    assert accounts == plain[1]


def test_merged_from_the_two_directions(tmp_path: Path, plain: tuple[list[Intervals], Accounts]) -> None:
    """Two taps, one a direction, whose captures are merged by time: what a mirror that is hooked on twice gives."""
    ours = bytes([10, 20])
    halves = [[f for f in FRAMES if (f.data[30:32] == ours) == way] for way in (True, False)]
    merged = sorted([*halves[0], *halves[1]], key=lambda frame: frame.time_ns)
    one, accounts = in_one(write(tmp_path / "a.pcap", merged))
    assert all(halves)
    alike(plain[0], one)
    assert accounts == plain[1]
