"""What is fuzzed: each target takes any bytes as a hostile sender would give them, and fails on a crash or broken accounts.

With NUMBA_DISABLE_JIT=1 the kernels run as Python, so that a fuzzer sees their branches, and an index outside an array is an
error, a negative one too. An input's first byte says how it is to be read; of some targets the rest is cut into pieces.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any

import numpy as np
from numba import config
from tests.decode.exports import balanced
from tests.meter.stories import SHOP

from adumbra.decode.flow_exports import FlowDecoder
from adumbra.decode.flow_logs import LogDecoder
from adumbra.decode.packets import MAX_DEPTH, Decoder
from adumbra.decode.share import Share
from adumbra.meter.attribute import Attribution
from adumbra.meter.flow_records import FlowMeter, FlowMeterSettings
from adumbra.meter.intervals import Meter, MeterSettings
from adumbra.meter.summary import Summary
from adumbra.meter.tally import Tally
from adumbra.schema.errors import AdumbraError
from adumbra.schema.records import NANOSECONDS, Accounts, Datagrams, FlowRecords, Frames, Intervals, Ints, Link, LogLines
from adumbra.schema.sources import Export, ExportFileSource, Layer
from adumbra.schema.spec import expand_vms
from adumbra.tap.flows import ExportReplay
from adumbra.tap.replay import PcapReplay
from adumbra.tap.ring_kernels import FULL, walk_block

VMS = expand_vms(SHOP)
with np.errstate(all="ignore"):  # uncompiled, hashes warn that they overflow
    ATTRIBUTION = Attribution(SHOP, VMS)
PORTS = [(80, 443), *([()] * (len(VMS) - 1))]
BEGIN_NS = 1_700_000_000 * NANOSECONDS
LINKS = (1, 101, 113, 276, 0, int(Link.VXLAN), int(Link.GENEVE), int(Link.GRE))
LAYERS = (Layer.AUTO, Layer.INNERMOST, Layer.OUTERMOST)
MOST_BYTES = 4096
IN_PIECES = {"frames": 64, "exports": 32}
_HEADS = {"frames": 2, "exports": 2}
_MOST_INTERVALS = 1 << 21
_NUMPY = re.compile(r"np\.\w+\(([^()]*)\)")  # how NumPy writes a number
_NEVER_BELOW_0 = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "peers", "requests", "missed_packets", "connections_attempted",
    "connections_failed", "connections_established", "retransmitted_packets", "connections_scanned", "scan_bytes",
)  # fmt: skip

METERS = (
    MeterSettings(max_connections=1, max_sources=1, scan_targets=4),
    MeterSettings(
        lateness_s=2, answer_s=0.5, idle_stream_s=3, idle_datagram_s=1, quiet_s=60, max_connections=64, max_notes=1,
        max_sources=1, scan_targets=4, scan_completed=0.5, scan_memory_s=30,
    ),
    MeterSettings(lateness_s=30, quiet_s=20, max_sources=1, scan_targets=8),
)  # fmt: skip
FLOW_METERS = (
    FlowMeterSettings(max_cells=1, max_sources=1, scan_targets=2),
    FlowMeterSettings(lateness_s=None, max_cells=2048, max_sources=32, scan_targets=4, scan_completed=0.5),
    FlowMeterSettings(lateness_s=20, max_cells=1, max_sources=1, scan_memory_s=30, quiet_s=60, max_flow_s=3600),
)


class Strict(np.ndarray):
    """Bytes that can't be read from the end backwards: an index below 0 is as much a mistake as one too large."""

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, (int, np.integer)) and at < 0:
            raise IndexError(f"index {at} is below 0")
        return super().__getitem__(at)


def strict(data: bytes) -> Any:
    """Exactly these bytes as an array. Compiled kernels take plain arrays only."""
    array = np.frombuffer(bytearray(data or b"\0"), np.uint8)
    return array.view(Strict) if config.DISABLE_JIT else array


# ---- pieces --------------------------------------------------------------------------------------------------------------


def pieces(name: str, data: bytes) -> list[bytes]:
    """An input's pieces, without its first byte: before each stands its size, in one byte or two, of a frame also its time."""
    head, at, found = _HEADS[name], 1, []
    while at + head <= len(data) and len(found) < IN_PIECES[name]:
        size = data[at] if name == "frames" else int.from_bytes(data[at : at + 2], "big") % 1500
        more = data[at + 1 : at + head] if name == "frames" else b""
        found.append(more + data[at + head : at + head + size])
        at += head + size
    return found


def joined(name: str, first: int, parts: Sequence[bytes]) -> bytes:
    """The input with these pieces."""
    if name == "frames":
        return bytes([first]) + b"".join(bytes([min(len(part) - 1, 255)]) + part[:256] for part in parts if part)
    return bytes([first]) + b"".join(min(len(part), 1499).to_bytes(2, "big") + part[:1499] for part in parts)


def step_ns(code: int) -> int:
    """How much later than the one before a frame comes: up to 25 s; with bit 6 up to 7 hours, with bit 7 earlier."""
    step = (code & 0x3F) ** 3 * 100_000 * (1000 if code & 0x40 else 1)
    return -step if code & 0x80 else step


# ---- targets -------------------------------------------------------------------------------------------------------------


def capture(data: bytes, seen: Seen) -> None:
    """A capture file of any bytes: walked, decoded, attributed, metered; then read as one of flow exports."""
    path = Path(tempfile.gettempdir()) / f"adumbra-fuzz-{os.getpid()}.pcap"
    try:
        path.write_bytes(data)
        try:
            with PcapReplay(path) as source:
                told = Told(seen, 0)
                for batch in source:
                    told.follow(batch, Layer.AUTO)
                told.end()
                assert source.losses().unread_bytes >= 0
                seen.note(source.losses())
        except AdumbraError:
            pass
        for export in Export:
            try:
                with ExportReplay(ExportFileSource(export, path)) as exports_in_it:
                    decoder, rows = FlowDecoder(), 0
                    for datagrams in exports_in_it:
                        rows += len(decoder.decode(datagrams))
                    assert balanced(decoder.accounts(), rows)
                    seen.note(decoder.accounts(), exports_in_it.losses())
            except AdumbraError:
                pass
    finally:
        path.unlink()


def frames(data: bytes, seen: Seen) -> None:
    """Any bytes cut into frames: the first says how they are linked and layered, how the meter is bounded, who shares them."""
    given = pieces("frames", data)
    if not given:
        return
    link, rest = LINKS[data[0] % len(LINKS)], data[0] // len(LINKS)
    layer, rest = LAYERS[rest % len(LAYERS)], rest // len(LAYERS)
    workers = 2 if rest >= 2 * len(METERS) else 1
    tolds = [Told(seen, rest % len(METERS), Share(worker, workers, SHOP.cidrs)) for worker in range(workers)]
    time_ns = BEGIN_NS + np.cumsum([step_ns(piece[0]) for piece in given], dtype=np.int64)
    half = (len(given) + 1) // 2
    for begin, end in ((0, half), (half, len(given))):
        batch = made_frames([piece[1:] for piece in given[begin:end]], time_ns[begin:end], link, data[0] % 3)
        for told in tolds:
            told.follow(batch, layer)
    elsewhere = sum(told.end().outcomes["elsewhere"] for told in tolds)
    assert elsewhere == len(given) * (workers - 1), "each frame is one worker's"


def made_frames(given: Sequence[bytes], time_ns: Ints, link: int, cut: int) -> Frames:
    """Frames of which `cut` bytes weren't captured."""
    sizes = np.array([len(piece) for piece in given], np.int64)
    links = np.full(len(given), link, np.int64)
    return Frames(strict(b"".join(given)), np.cumsum(sizes) - sizes, sizes, sizes + cut, time_ns, links)


def exports(data: bytes, seen: Seen) -> None:
    """Any bytes cut into export datagrams by two exporters: NetFlow, IPFIX, sFlow."""
    given = pieces("exports", data)
    if not given:
        return
    sizes = np.array([len(piece) for piece in given], np.int64)
    batch = Datagrams(
        data=strict(b"".join(given)), offset=np.cumsum(sizes) - sizes, size=sizes,
        time_ns=BEGIN_NS + np.arange(len(given), dtype=np.int64) * NANOSECONDS,
        exporter=tuple(f"192.0.2.{1 + i % 2}" for i in range(len(given))),
        complete_to_ns=BEGIN_NS if data[0] & 8 else 0,
    )  # fmt: skip
    decoder = FlowDecoder()
    records = decoder.decode(batch)
    assert balanced(decoder.accounts(), len(records))
    seen.note(decoder.accounts())
    meter_flows(records, data[0], seen)


def logs(data: bytes, seen: Seen) -> None:
    """Any bytes as a flow log's lines."""
    decoder, rows = LogDecoder(), 0
    try:
        records = decoder.decode(LogLines(tuple(data[1:].split(b"\n")), 1))
        rows += len(records)
        meter_flows(records, data[0] if data else 0, seen)
        rows += len(decoder.finish())
    except AdumbraError:
        return
    told = decoder.accounts()
    assert told["parsed"] == rows
    assert all(count >= 0 for count in told.values())
    seen.note(told)


def ring(data: bytes, seen: Seen) -> None:
    """Any bytes as a block of a ring, between other bytes: its frames lie within it, and are decoded and metered."""
    if not data:
        return
    room, begin = 1 + data[0] % 4, data[0] // 4
    block = data[1:]
    held = strict(b"\xee" * begin + block + b"\xee" * 64)
    columns: list[Ints] = [np.zeros(room, np.int64) for _ in range(4)]
    told, at, left, state = Told(seen, data[0] % len(METERS)), 0, 0, FULL
    for _ in range(len(block) // 48 + 1):  # a frame's header takes 48 bytes
        found, at, left, state = walk_block(held, begin, len(block), at, left, 0, *columns)
        offset, captured, length, time_ns = (column[:found] for column in columns)
        assert (offset >= begin).all()
        assert (captured >= 0).all()
        assert (offset + captured <= begin + len(block)).all()
        assert (length >= captured).all()
        told.follow(Frames(held, offset, captured, length, time_ns, np.ones(found, np.int64)), Layer.AUTO)
        if state != FULL:
            break
    assert state != FULL, "the walk over a block doesn't end"
    told.end()


TARGETS: dict[str, Callable[[bytes, Seen], None]] = {
    "capture": capture, "frames": frames, "exports": exports, "logs": logs, "ring": ring,
}  # fmt: skip


# ---- what all of them go through -----------------------------------------------------------------------------------------


class Seen:
    """All that was told of an input, as a hash: the same whether kernels are compiled or not."""

    def __init__(self) -> None:
        self._digest = sha1(usedforsecurity=False)

    def note(self, *told: object) -> None:
        self._digest.update(_NUMPY.sub(r"\1", repr(told)).encode())

    def note_intervals(self, closed: Intervals) -> None:
        requests = closed.requests
        columns = [closed.columns[name].astype(np.float64) for name in sorted(closed.columns)]
        for column in (closed.start_ns, *columns, closed.one_sided, requests.time_ns, requests.vm, requests.opens):
            self._digest.update(np.ascontiguousarray(column).tobytes())

    def __str__(self) -> str:
        return self._digest.hexdigest()


class Told:
    """A decoder and a meter, bounded as METERS says, and how many frames they were given."""

    def __init__(self, seen: Seen, bounds: int, share: Share | None = None) -> None:
        self.seen, self.decoder, self.meter = (
            seen,
            Decoder(share),
            Meter(len(VMS), SHOP.interval_ns, METERS[bounds], seed=5, ports=PORTS),
        )
        self.summary, self.live = Summary(len(VMS)), bounds == 1
        self.offered = self.intervals = 0
        self.last_ns = -(1 << 62)

    def follow(self, batch: Frames, layer: Layer) -> None:
        packets = ATTRIBUTION.assign(self.decoder.decode(batch))
        for _ in range(MAX_DEPTH + 1):
            if not self.decoder.unwrap(batch, packets, layer):
                break
            ATTRIBUTION.assign(packets)
        else:
            raise AssertionError("tunnels within tunnels never end")
        self.offered += len(batch)
        self._take(self.meter.add(packets))
        if self.live and len(batch):  # as a live tap does
            self.meter.miss(1)
            self._take(self.meter.advance(int(batch.time_ns.max()) + NANOSECONDS))

    def end(self) -> Accounts:
        self._take(self.meter.finish())
        told = self.meter.accounts()
        self.seen.note(told)
        assert told.offered == self.offered == sum(told.outcomes.values())
        assert told.attributed + told.foreign + told.unclaimed == told.parsed
        assert told.late + told.untracked <= told.attributed
        assert min(told.uncounted, told.scanners, told.evicted_attempts, told.evicted_sources) >= 0
        return told

    def _take(self, tallies: Iterator[Tally]) -> None:
        for closed in map(self.summary.intervals, tallies):
            self.seen.note_intervals(closed)
            if len(closed):
                assert closed.start_ns[0] > self.last_ns, "intervals come in order, each once"
                assert (np.diff(closed.start_ns) > 0).all()
                self.last_ns = int(closed.start_ns[-1])
            self.intervals += len(closed)
            assert self.intervals < _MOST_INTERVALS, "a few packets make endless intervals"
            for name in _NEVER_BELOW_0:
                assert (closed.columns[name] >= 0).all(), name


def meter_flows(records: FlowRecords, first: int, seen: Seen) -> None:
    meter = FlowMeter(len(VMS), SHOP.interval_ns, FLOW_METERS[first % len(FLOW_METERS)], seed=5, ports=PORTS)
    intervals = 0
    for step in (meter.add(ATTRIBUTION.assign_flows(records)), meter.finish()):
        for closed in step:
            intervals += len(closed)
            assert intervals < _MOST_INTERVALS, "a few records make endless intervals"
            assert (closed.columns["peers"] >= 0).all()
            seen.note_intervals(closed)
    told = meter.accounts()
    seen.note(told)
    assert told.attributed + told.foreign + told.unclaimed == told.parsed == len(records)
    assert told.late <= told.attributed


def run(name: str, data: bytes) -> str:
    """One input through one target: a hash of all that was told of it.

    Warnings of overflow are those of Python, which the compiled kernels don't have.
    """
    seen = Seen()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        TARGETS[name](data, seen)
    return str(seen)
