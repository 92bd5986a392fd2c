"""What was prepared, as requests of Prometheus' remote write 1.0: protobuf in raw snappy. Pure; posts nothing.

A request is made of pieces, rectangles of series and intervals, that can be halved: where a server takes all or nothing of a
request, halving it finds what is refused. https://prometheus.io/docs/specs/prw/remote_write_spec/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Any

import cramjam
import numpy as np
from numpy.typing import NDArray

from adumbra.schema.metrics import NAMES
from adumbra.schema.records import NANOSECONDS, Floats, Ints, Origin
from adumbra.store.prepared import Gone, Prepared
from adumbra.store.remote_write_kernels import SAMPLE_BYTES, SERIES_BYTES, encode_series
from adumbra.store.series import INTERVAL_END, ONE_SIDED, STALE_BITS, Slot, Texts, end_labels, slot_labels, slots_of, vm_labels

HEADERS: dict[str, str] = {
    "Content-Encoding": "snappy", "Content-Type": "application/x-protobuf", "X-Prometheus-Remote-Write-Version": "0.1.0",
}  # fmt: skip
BASE_MS, STALE_MS = 1, 2
"""How long after an interval's beginning the base of its totals stands, and after the last one's end the mark of a series' end:
apart from each other, should the VM come back at once."""
MOST_MS = 30 * 60_000
"""The most time that a request is of."""
_MILLISECOND = NANOSECONDS // 1000
_NOTHING: dict[str, NDArray[Any]] = {"": np.zeros((0, 0))}
_NO_BASES: NDArray[np.uint64] = np.zeros((0, 0, 0), np.uint64)
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Table:
    """Series of one batch: each of `slots` for each VM. ends_ms, base_ms: int64[R], the times of samples and of bases.

    columns: name -> [R, V]; without any, every series is told to have ended. bases: as in Prepared.
    """

    slots: tuple[Slot, ...]
    slot_labels: Texts
    vm_labels: Texts
    ends_ms: Ints
    base_ms: Ints
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    bases: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of some series of a table, each range [from, to): their samples, their bases, or both."""

    table: Table
    rows: Span
    vms: Span
    slots: Span
    samples: bool = True
    bases: bool = True

    @property
    def cells(self) -> int:
        return (self.rows[1] - self.rows[0]) * (self.vms[1] - self.vms[0]) * (self.slots[1] - self.slots[0])

    def halves(self) -> tuple[Piece, ...]:
        """Two pieces: of earlier and later rows if there are several, of VMs, slots, bases and samples; none of one number."""
        for name in ("rows", "vms", "slots"):
            begin, end = getattr(self, name)
            if end - begin > 1:
                middle = (begin + end) // 2
                parts: list[Any] = [{name: (begin, middle)}, {name: (middle, end)}]
                return tuple(replace(self, **part) for part in parts)
        if self.samples and self.bases and self.table.bases:
            return replace(self, samples=False), replace(self, bases=False)
        return ()


Request = tuple[Piece, ...]


def halves(request: Request) -> tuple[Request, ...]:
    """Two requests that are this one; none where that can't be."""
    if len(request) > 1:
        middle = len(request) // 2
        return request[:middle], request[middle:]
    return tuple((piece,) for piece in request[0].halves())


@dataclass(frozen=True, slots=True)
class Tables:
    """All series of a batch: of VMs that are gone, of those that are there, and of the network, how far its intervals reach."""

    gone: tuple[Table, ...] = ()
    vms: Table | None = None
    network: Table | None = None


def tables_of(prepared: Prepared) -> Tables:
    """The series that a prepared batch becomes."""
    batch, live = prepared.batch, prepared.batch.origin is Origin.LIVE
    slots = slots_of(tuple(batch.columns) or NAMES, live=live)
    labels = slot_labels(slots, batch.network, batch.origin.value)
    ended = tuple(_ended(slots, labels, gone) for gone in _by_end(prepared.gone))
    if not len(batch) or not batch.vms:
        return Tables(ended)
    interval_ms = round(batch.interval_s * 1000)
    ends_ms = _ms(batch.start_ns + round(batch.interval_s * NANOSECONDS))
    vms = vm_labels(batch.vms, batch.subnets, batch.roles)
    columns = {**batch.columns, ONE_SIDED: batch.one_sided}
    base_ms = _ms(batch.start_ns) + BASE_MS
    of_vms = Table(slots, labels, vms, ends_ms, base_ms, columns, prepared.bases)
    nobody = Texts(np.zeros(0, np.uint8), np.zeros(2, np.int64))
    reach = {INTERVAL_END: (ends_ms / 1000.0)[:, np.newaxis]}
    of_ends = end_labels(batch.network, batch.origin.value, interval_ms)
    return Tables(ended, of_vms, Table((Slot(INTERVAL_END, INTERVAL_END),), of_ends, nobody, ends_ms, base_ms, reach))


def _ended(slots: tuple[Slot, ...], labels: Texts, gone: Sequence[Gone]) -> Table:
    vms = vm_labels(*(tuple(getattr(each, name) for each in gone) for name in ("vm", "subnet", "role")))
    at_ms = _ms(np.array([gone[0].end_ns])) + STALE_MS
    return Table(slots, labels, vms, at_ms, at_ms)


def _by_end(gone: Iterable[Gone]) -> list[list[Gone]]:
    def end_ns(each: Gone) -> int:
        return each.end_ns

    return [list(group) for _, group in groupby(sorted(gone, key=end_ns), end_ns)]


def _ms(times_ns: Ints) -> Ints:
    return np.asarray((times_ns + _MILLISECOND // 2) // _MILLISECOND, np.int64)


def plan(tables: Tables, samples: int) -> list[list[Request]]:
    """Requests of about so many samples, in steps: those of a step in any order and at once, the steps one after the other.

    All VMs keep step: Prometheus takes no sample as in order that is an hour older than the newest of any series. What says how
    far the network reaches comes when the rest is there.
    """
    steps: list[list[Request]] = [[(piece,) for table in tables.gone for piece in _pieces(table, (0, 1), samples)]]
    if tables.vms is not None and tables.network is not None:
        for rows in _row_ranges(tables.vms.ends_ms, max(1, samples // len(tables.vms.slots))):
            reach = Piece(tables.network, rows, (0, 1), (0, 1))
            pieces = _pieces(tables.vms, rows, samples)
            steps += [[(*pieces, reach)]] if len(pieces) == 1 else [[(piece,) for piece in pieces], [(reach,)]]
    if len(steps) == 2 and len(steps[0]) == len(steps[1]) == 1:  # little enough for one request
        return [[steps[0][0] + steps[1][0]]]
    return [step for step in steps if step]


def _pieces(table: Table, rows: Span, samples: int) -> list[Piece]:
    slots = len(table.slots)
    vms_at_once = max(1, samples // (slots * (rows[1] - rows[0])))
    return [Piece(table, rows, vms, (0, slots)) for vms in _ranges(len(table.vm_labels), vms_at_once)]


def _row_ranges(ends_ms: Ints, at_once: int) -> list[Span]:
    """All rows, in parts of at most so many, and of no longer than MOST_MS unless they are one row."""
    ranges, begin = list[Span](), 0
    for row, end_ms in enumerate(ends_ms.tolist()):
        if row - begin == at_once or end_ms - ends_ms[begin] > MOST_MS:
            ranges.append((begin, row))
            begin = row
    return [*ranges, (begin, len(ends_ms))]


def _ranges(count: int, at_once: int) -> list[Span]:
    """0 to count, in even parts of at most so many."""
    parts = -(-count // at_once)
    edges = [count * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))


@dataclass(frozen=True, slots=True)
class Encoded:
    """A request's body, and the samples in it."""

    body: bytes
    samples: int


def encode(request: Request) -> Encoded:
    """A WriteRequest of all pieces, compressed."""
    parts = [_encode(piece) for piece in request]
    plain = parts[0][0] if len(parts) == 1 else np.concatenate([part for part, _ in parts])
    return Encoded(bytes(cramjam.snappy.compress_raw(plain.data)), sum(samples for _, samples in parts))


def _encode(piece: Piece) -> tuple[NDArray[np.uint8], int]:
    table = piece.table
    first, last = piece.slots
    rows, vms = slice(*piece.rows), slice(*piece.vms)
    slot_at, vm_at = table.slot_labels.at[first : last + 1], table.vm_labels.at[vms.start : vms.stop + 1]
    bits = _matrix(table.slots[first:last], table.columns if piece.samples else _NOTHING, table, rows, vms)
    bases = _matrix(table.slots[first:last], table.bases, table, rows, vms) if table.bases and piece.bases else _NO_BASES
    labels_bytes = int(slot_at[-1] - slot_at[0]) * len(vm_at) + int(vm_at[-1] - vm_at[0]) * len(slot_at)
    series = (last - first) * (vms.stop - vms.start)
    most = labels_bytes + series * SERIES_BYTES + piece.cells * SAMPLE_BYTES * (2 if table.bases else 1)
    out = np.empty(most, np.uint8)
    used, samples = encode_series(
        bits, bases, table.base_ms[rows], table.ends_ms[rows], table.slot_labels.data, slot_at, table.vm_labels.data, vm_at, out
    )
    return out[:used], samples


def _matrix(
    slots: Sequence[Slot], columns: Mapping[str, NDArray[Any]], table: Table, rows: slice, vms: slice
) -> NDArray[np.uint64]:
    """The values as uint64[S, R, V], in base units; NaN where a series has none."""
    shape = (len(slots), rows.stop - rows.start, vms.stop - vms.start)
    if not columns:
        return np.full(shape, STALE_BITS, np.uint64)
    values = np.empty(shape)
    sided = table.columns[ONE_SIDED][rows, vms] if ONE_SIDED in table.columns else None
    for slot, into in zip(slots, values, strict=True):
        column = columns.get(slot.column)
        if column is None:
            into.fill(np.nan)
            continue
        np.multiply(column[rows, vms], slot.scale, out=into)
        if slot.where is not None and sided is not None:
            into[sided != slot.where] = np.nan
    return values.view(np.uint64)
