"""A real exporter meters the shop's capture and sends what it saw over UDP: the totals are the capture's own."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import zstandard
from tests.decode.exports import balanced, datagrams
from tests.decode.exports_oracles import needs_softflowd

from adumbra.decode.flow_exports import FlowDecoder
from adumbra.decode.packets import Decoder
from adumbra.schema.records import FlowRecords, Outcome
from adumbra.tap.replay import PcapReplay

SHOP = Path(__file__).parents[2] / "examples" / "shop" / "shop.pcap.zst"
SYN, ACK = 0x02, 0x10

Truth = dict[str, int]


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plain = tmp_path_factory.mktemp("shop") / "shop.pcap"
    with SHOP.open("rb") as packed, plain.open("wb") as unpacked:
        zstandard.ZstdDecompressor().copy_stream(packed, unpacked)
    return plain


@pytest.fixture(scope="module")
def truth(capture: Path) -> Truth:
    """Of the capture itself: bytes, packets, first and last ns, connections attempted, and those that a server answered."""
    found = {"bytes": 0, "packets": 0, "first": 1 << 62, "last": 0}
    asked, answered = set(), set()
    decoder = Decoder()
    with PcapReplay(capture) as source:
        for frames in source:
            packets = decoder.decode(frames)
            ip = packets.outcome == Outcome.PARSED
            found["bytes"] += int(packets.ip_bytes[ip].sum())
            found["packets"] += int(ip.sum())
            found["first"] = min(found["first"], int(packets.time_ns[ip].min()))
            found["last"] = max(found["last"], int(packets.time_ns[ip].max()))
            for i in np.flatnonzero(ip & (packets.protocol == 6) & (packets.flags & SYN != 0)):
                client = (int(packets.src_lo[i]), int(packets.src_port[i]))
                server = (int(packets.dst_lo[i]), int(packets.dst_port[i]))
                if packets.flags[i] & ACK:
                    answered.add((server, client))
                else:
                    asked.add((client, server))
    return found | {"attempted": len(asked), "established": len(asked & answered), "failed": len(asked - answered)}


def exported(capture: Path, received_ns: int, *options: str) -> tuple[FlowRecords, dict[str, int]]:
    """What softflowd says of a capture, through a socket and the decoder. Its clock is the capture's."""
    payloads: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
        collector.bind(("127.0.0.1", 0))
        collector.settimeout(0.5)
        done = threading.Event()

        def collect() -> None:
            while True:
                try:
                    payloads.append(collector.recv(65535))
                except TimeoutError:
                    if done.is_set():
                        return

        reader = threading.Thread(target=collect)
        reader.start()
        try:
            port = collector.getsockname()[1]
            command = ["softflowd", "-a", "-r", str(capture), "-n", f"127.0.0.1:{port}", *options]
            run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        finally:
            done.set()
            reader.join()
    if run.returncode != 0:
        pytest.skip(f"softflowd can't run here: {run.stderr.strip()[-200:]}")
    decoder = FlowDecoder()
    flows = decoder.decode(datagrams(payloads, received_ns))
    assert balanced(decoder.accounts(), len(flows))
    return flows, dict(decoder.accounts())


@needs_softflowd
@pytest.mark.parametrize(
    ("options", "clock_off_s"),
    [
        (("-v", "5"), 0.002),
        (("-v", "9"), 1.002),  # v9 tells the time of export in whole seconds
        (("-v", "10"), 0.002),
        (("-v", "10", "-b"), 0.002),  # biflows
        (("-v", "10", "-A", "milli"), 0.002),
        (("-v", "10", "-A", "micro"), 0.00001),
        (("-v", "9", "-A", "nano"), 0.00001),
    ],
)
def test_totals_are_the_captures_own(capture: Path, truth: Truth, options: tuple[str, ...], clock_off_s: float) -> None:
    flows, accounts = exported(capture, truth["last"], *options)
    assert int(flows.bytes.sum()) == truth["bytes"]
    assert int(flows.packets.sum()) == truth["packets"]
    assert set(flows.rate.tolist()) == {1}
    for count in ("attempted", "established", "failed"):
        assert int(getattr(flows, count).sum()) == truth[count], count
    assert accounts["datagrams_read"] == accounts["datagrams"]
    assert accounts["sets_waiting"] == 0
    assert accounts["times_replaced"] == accounts["clocks_replaced"] == 0
    assert abs(int(flows.start_ns.min()) - truth["first"]) <= clock_off_s * 1e9
    assert abs(int(flows.end_ns.max()) - truth["last"]) <= clock_off_s * 1e9


@needs_softflowd
@pytest.mark.parametrize("version", ["5", "9", "10"])
def test_samples_scale_to_the_captures_totals(capture: Path, truth: Truth, version: str) -> None:
    flows, _ = exported(capture, truth["last"], "-v", version, "-s", "10")
    assert set(flows.rate.tolist()) == {10}
    assert int((flows.bytes * flows.rate).sum()) == pytest.approx(truth["bytes"], rel=0.01)
    assert int((flows.packets * flows.rate).sum()) == pytest.approx(truth["packets"], rel=0.005)
    assert int((flows.attempted * flows.rate).sum()) == pytest.approx(truth["attempted"], rel=0.1)
    assert set(flows.established.tolist()) == {-1}  # a sample doesn't tell what became of an attempt
