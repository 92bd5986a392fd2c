"""From a data set's records to FlowRecords' columns, many records at a time. Keeps nothing between data sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from adumbra.decode.exporters import NO_UPTIME, Heard, Told
from adumbra.decode.flow_connections import Seen, one_way, two_way
from adumbra.decode.flow_rows import TCP, Rows, empty_flows, reversed_ends, taken, untold
from adumbra.decode.flow_times import Clock, times
from adumbra.decode.sampled_headers import SampledHeaders
from adumbra.decode.templates import REVERSE, Element, Parts, Template
from adumbra.schema.records import UNTOLD, FlowRecords, Frames, Ints

Uints = NDArray[np.uint64]
Mask = NDArray[np.bool_]

MAX_RATE = 1 << 24
_MAX_SCALED = 2.0**52
_MAX_COUNT = 1 << 56
_DENIED = 3


@dataclass(frozen=True, slots=True)
class DataSet:
    """Records whose template is known; order: that of the first one's rows."""

    template: Template
    parts: Parts
    heard: Heard
    told: Told
    order: int


class Columns:
    """A template's columns of some records (uint8[n, template.size])."""

    def __init__(self, template: Template, records: NDArray[np.uint8]) -> None:
        self._template = template
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def has(self, *elements: Element) -> bool:
        return any(element in self._template.columns for element in elements)

    def raw(self, element: Element, size: int) -> NDArray[np.uint8] | None:
        """The element's bytes, [n, size]; None where the template has no such element of that size."""
        at, there = self._template.columns.get(element, (0, 0))
        return self._records[:, at : at + size] if there == size else None

    def number(self, element: Element) -> Uints | None:
        """An unsigned number of 1 to 8 bytes, big-endian (reduced-size encoding too, RFC 7011, section 6.2)."""
        at, size = self._template.columns.get(element, (0, 0))
        if not 0 < size <= 8:
            return None
        field = self._records[:, at : at + size]
        if size in (1, 2, 4, 8):
            return np.ascontiguousarray(field).view(f">u{size}").ravel().astype(np.uint64)
        wide = np.zeros((len(field), 8), np.uint8)
        wide[:, 8 - size :] = field
        return wide.view(">u8").ravel().astype(np.uint64)

    def first(self, *elements: Element) -> Uints | None:
        """Of several elements that tell the same, each record's first that isn't 0; None where the template has none."""
        found: Uints | None = None
        for element in elements:
            numbers = self.number(element)
            if numbers is not None:
                found = numbers if found is None else np.where(found == 0, numbers, found)
        return found


_Choices = tuple[tuple[Element, ...], ...]

# Since the last record, in or out, else in all, else an initiator's; what a template has of the first of these counts.
_BYTES: _Choices = (((0, 1), (0, 23)), ((0, 85),), ((0, 231),))
_PACKETS: _Choices = (((0, 2), (0, 24)), ((0, 86),), ((0, 298),))
_BYTES_BOTH_WAYS: _Choices = (((0, 231),), *_BYTES)
_PACKETS_BOTH_WAYS: _Choices = (((0, 298),), *_PACKETS)
_BYTES_BACK: _Choices = (((REVERSE, 1),), ((REVERSE, 85),), ((0, 232),))
_PACKETS_BACK: _Choices = (((REVERSE, 2),), ((REVERSE, 86),), ((0, 299),))


def flow_rows(sets: Sequence[DataSet], accounts: Counter[str]) -> list[Rows]:
    """The rows of data sets that have one template. Each record is counted once: given, or by the reason why not."""
    if not sets[0].template.has_addresses:
        accounts["records_no_addresses"] += sum(s.parts.count for s in sets)
        return []
    columns, of_set, order = _columns(sets)
    flows = empty_flows(len(columns))
    addressed = _fill_addresses(flows, columns)
    _fill_ports(flows, columns)
    counted = _fill_counts(flows, columns)
    flows.rate[:], unknown = _rates(columns, sets, of_set)
    clock = _clock(sets, of_set)
    flows.start_ns[:], flows.end_ns[:], absurd = times(columns, clock)
    believable = _scaled(flows.bytes, flows.rate) & _scaled(flows.packets, flows.rate)
    keep = addressed & counted & believable
    accounts["records_no_addresses"] += int(np.sum(~addressed))
    accounts["records_no_counts"] += int(np.sum(addressed & ~counted))
    accounts["records_unbelievable"] += int(np.sum(addressed & counted & ~believable))
    accounts["records_given"] += int(np.sum(keep))
    accounts["times_replaced"] += int(np.sum(absurd & keep))
    accounts["rates_unknown"] += int(np.sum(unknown & keep))
    everything = Rows(flows, order)
    if columns.has(*chain(*_BYTES_BACK, *_PACKETS_BACK)):
        return _both_ways(everything, columns, keep, accounts)
    return _one_way(everything, columns, keep, np.array([s.heard.datagram for s in sets], np.int64)[of_set])


def sampled_rows(sets: Sequence[DataSet], sampled: SampledHeaders) -> list[Rows]:
    """The rows of data sets whose records hold the headers of sampled packets (RFC 5477; NetFlow v9's packet sections)."""
    section = sets[0].template.section
    columns, of_set, order = _columns(sets)
    headers = [header for s in sets for header in s.parts.sections]
    captured = np.array([len(header) for header in headers], np.int64)
    wire = columns.number((0, 312))
    _, end_ns, _ = times(columns, _clock(sets, of_set))
    frames = Frames(
        data=np.frombuffer(bytearray().join(headers), np.uint8),
        offset=np.cumsum(captured) - captured,
        captured=captured,
        length=captured if wire is None else np.maximum(captured, (wire & np.uint64(0xFFFF)).astype(np.int64)),
        time_ns=end_ns,
        link=np.full(len(headers), section.link if section else 0, np.int64),
    )
    rates, _ = _rates(columns, sets, of_set)
    return [sampled.rows(frames, rates, order)]


def _columns(sets: Sequence[DataSet]) -> tuple[Columns, Ints, Ints]:
    """All the sets' records, the set of each, and the order of its row."""
    template = sets[0].template
    counts = np.array([s.parts.count for s in sets])
    fixed = np.frombuffer(b"".join(s.parts.fixed for s in sets), np.uint8)
    of_set = np.repeat(np.arange(len(sets)), counts)
    nth = np.arange(len(of_set)) - np.repeat(np.cumsum(counts) - counts, counts)
    order = np.array([s.order for s in sets], np.int64)[of_set] + 2 * nth
    return Columns(template, fixed.reshape(len(of_set), template.size)), of_set, order


def _fill_addresses(flows: FlowRecords, columns: Columns) -> Mask:
    """Which records have addresses. Where a template has both versions', the record's version field or zeros decide."""
    addressed = np.zeros(len(columns), np.bool_)
    told = columns.number((0, 60))
    src, dst = columns.raw((0, 8), 4), columns.raw((0, 12), 4)
    if src is not None and dst is not None:
        src_lo, dst_lo = _word(src), _word(dst)
        addressed = (src_lo != 0) | (dst_lo != 0)
        if told is not None:
            addressed &= told != 6
        flows.version[addressed] = 4
        flows.src_lo[addressed], flows.dst_lo[addressed] = src_lo[addressed], dst_lo[addressed]
    src, dst = columns.raw((0, 27), 16), columns.raw((0, 28), 16)
    if src is not None and dst is not None:
        halves = (*_halves(src), *_halves(dst))
        here = (np.bitwise_or.reduce(halves) != 0) & ~addressed
        flows.version[here] = 6
        for column, values in zip((flows.src_hi, flows.src_lo, flows.dst_hi, flows.dst_lo), halves, strict=True):
            column[here] = values[here]
        addressed |= here
    return addressed


def _word(address: NDArray[np.uint8]) -> Uints:
    return np.ascontiguousarray(address).view(">u4").ravel().astype(np.uint64)


def _halves(address: NDArray[np.uint8]) -> tuple[Uints, Uints]:
    words = np.ascontiguousarray(address).view(">u8").astype(np.uint64)
    return words[:, 0], words[:, 1]


def _fill_ports(flows: FlowRecords, columns: Columns) -> None:
    for column, elements in (
        (flows.src_port, ((0, 7), (0, 182), (0, 180))),
        (flows.dst_port, ((0, 11), (0, 183), (0, 181))),
        (flows.protocol, ((0, 4),)),
    ):
        told = columns.first(*elements)
        if told is not None:
            column[:] = told & np.uint64(np.iinfo(column.dtype).max)


def _fill_counts(flows: FlowRecords, columns: Columns) -> Mask:
    """Which records are flows by their counts. Events of a firewall are where they tell some, or a connection denied."""
    both_ways = columns.has((0, 232), (0, 299))
    flows.bytes[:] = _count(columns, _BYTES_BOTH_WAYS if both_ways else _BYTES)
    flows.packets[:] = _count(columns, _PACKETS_BOTH_WAYS if both_ways else _PACKETS)
    told: Mask = (flows.bytes != UNTOLD) | (flows.packets != UNTOLD)
    event = columns.first((0, 233), (0, 40005))
    if event is None:
        return told
    back = np.maximum(_count(columns, _BYTES_BACK), _count(columns, _PACKETS_BACK))
    some = (flows.bytes > 0) | (flows.packets > 0) | (back > 0)
    denied: Mask = event == _DENIED
    return (told & some) | denied


def _count(columns: Columns, choices: _Choices) -> Ints:
    for elements in choices:
        numbers = columns.first(*elements)
        if numbers is not None:
            return np.minimum(numbers, np.uint64(_MAX_COUNT)).astype(np.int64)
    return untold(len(columns))


def _scaled(counts: Ints, rate: Ints) -> Mask:
    """Which counts can be scaled by the sampling rate, and added up, without overflow."""
    small: Mask = (counts < _MAX_COUNT) & (counts.astype(np.float64) * rate < _MAX_SCALED)
    return small


def own_rates(columns: Columns) -> Ints:
    """The sampling rate that records tell themselves, 0 where they don't (IPFIX elements of PSAMP, RFC 5477)."""
    rate = columns.first((0, 34), (0, 50))
    rates = np.zeros(len(columns)) if rate is None else rate.astype(np.float64)
    for sampled, beside, together in (((0, 305), (0, 306), False), ((0, 309), (0, 310), True)):
        looked_at, other = columns.number(sampled), columns.number(beside)
        if looked_at is None or other is None:
            continue
        part = looked_at.astype(np.float64)
        whole = other.astype(np.float64) + (0.0 if together else part)
        rates = np.where((rates == 0) & (part > 0), np.round(np.maximum(whole / np.maximum(part, 1), 1)), rates)
    return np.minimum(rates, MAX_RATE).astype(np.int64)


def samplers(columns: Columns) -> Uints | None:
    """The number of the sampler that a record names: samplerId or selectorId."""
    return columns.first((0, 302), (0, 48))


def _rates(columns: Columns, sets: Sequence[DataSet], of_set: Ints) -> tuple[Ints, Mask]:
    """Each record's sampling rate, and for which a sampler was named that nothing was told of."""
    named = samplers(columns)
    rates = np.zeros(len(columns), np.int64)
    distinct: dict[int, int] = {}
    which = np.array([distinct.setdefault(id(s.told), len(distinct)) for s in sets])[of_set]
    told = {id(s.told): s.told for s in sets}
    for identity, number in distinct.items():
        mine = which == number
        if named is None:
            rates[mine] = told[identity].rate(None)
            continue
        ids, back = np.unique(named[mine], return_inverse=True)
        rates[mine] = np.array([told[identity].rate(int(i)) for i in ids], np.int64)[back]
    rates = np.where((own := own_rates(columns)) > 0, own, rates)
    unknown = (rates == 0) & (named != 0) if named is not None else np.zeros(len(columns), np.bool_)
    return np.clip(rates, 1, MAX_RATE), unknown


def _clock(sets: Sequence[DataSet], of_set: Ints) -> Clock:
    heard = [s.heard for s in sets]
    export_ns = np.array([h.export_ns for h in heard], np.int64)
    uptime_ms = [h.uptime_ms for h in heard]
    for i, s in enumerate(sets):
        if uptime_ms[i] == NO_UPTIME and s.told.boot_ns:
            uptime_ms[i] = (heard[i].export_ns - heard[i].shift_ns - s.told.boot_ns) // 1_000_000
    shift_ns = np.array([h.shift_ns for h in heard], np.int64)
    return Clock(export_ns[of_set], shift_ns[of_set], np.array(uptime_ms, np.int64)[of_set])


def _flags(columns: Columns, element: Element) -> Ints:
    """Cumulative TCP flags; UNTOLD where there is no such field."""
    told = columns.number(element)
    return untold(len(columns)) if told is None else (told & np.uint64(0x3F)).astype(np.int64)


def _one_way(everything: Rows, columns: Columns, keep: Mask, datagram: Ints) -> list[Rows]:
    flags = _flags(columns, (0, 6))
    rows = taken(everything, keep)
    one_way(rows.flows, flags[keep], datagram[keep])
    event = columns.first((0, 233), (0, 40005))
    if event is not None:
        _deny(rows.flows, event[keep] == _DENIED)
    return [rows]


def _deny(flows: FlowRecords, denied: Mask) -> None:
    """A firewall denied these: the client's attempts failed."""
    denied = denied & (flows.protocol == TCP)
    flows.attempted[denied], flows.established[denied], flows.failed[denied] = 1, 0, 1
    flows.from_client[denied] = 1


def _direction(columns: Columns) -> Ints:
    """Whether a biflow's source is the client: by its biflowDirection (RFC 5103, section 6.3), or as it is an initiator."""
    told = columns.number((0, 239))
    if told is None:
        return np.ones(len(columns), np.int64) if columns.has((0, 231), (0, 232), (0, 298), (0, 299)) else untold(len(columns))
    return np.where(told == 1, 1, np.where(told == 2, 0, UNTOLD))


def _both_ways(everything: Rows, columns: Columns, keep: Mask, accounts: Counter[str]) -> list[Rows]:
    """Two rows of a biflow (RFC 5103, or initiator's and responder's counts); one where nothing came back."""
    forward = taken(everything, keep)
    backward = reversed_ends(forward)
    backward.flows.bytes[:] = _count(columns, _BYTES_BACK)[keep]
    backward.flows.packets[:] = _count(columns, _PACKETS_BACK)[keep]
    believable = _scaled(backward.flows.bytes, backward.flows.rate) & _scaled(backward.flows.packets, backward.flows.rate)
    event = columns.first((0, 233), (0, 40005))
    events = np.zeros(len(forward), np.uint64) if event is None else event[keep]
    seen = Seen(
        flags=_flags(columns, (0, 6))[keep],
        flags_back=_flags(columns, (REVERSE, 6))[keep],
        ends=events == 2,
        direction=_direction(columns)[keep],
    )
    two_way(forward.flows, backward.flows, seen)
    _deny(forward.flows, events == _DENIED)
    answered = ((backward.flows.bytes > 0) | (backward.flows.packets > 0)) & believable
    accounts["reverse_rows"] += int(np.sum(answered))
    return [forward, taken(backward, answered)]
