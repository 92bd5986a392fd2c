"""When flows were: absolute times from whatever an exporter tells of them. Pure, many records at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from adumbra.decode.exporters import NO_UPTIME, Heard
from adumbra.decode.templates import Element
from adumbra.schema.records import NANOSECONDS, Ints

DAY_NS = 86_400 * NANOSECONDS
MAX_FLOW_NS = 7 * DAY_NS
"""A longer flow is a clock's error: exporters write a record at least once in their active timeout."""

_MS, _US = 1_000_000, 1000
_WORD, _HALF = 1 << 32, 1 << 31
_NTP_TO_UNIX_S = 2_208_988_800  # RFC 5905; seconds since 1900
_MAX_S = 8_000_000_000

Uints = NDArray[np.uint64]
Mask = NDArray[np.bool_]


class Numbers(Protocol):
    """What is read of records: numbers by element."""

    def __len__(self) -> int: ...

    def number(self, element: Element) -> Uints | None: ...


@dataclass(frozen=True, slots=True)
class Clock:
    """The exporter's clock for each record, int64[n]: when it was exported, what to add to its absolute times, its uptime
    then, or NO_UPTIME."""

    export_ns: Ints
    shift_ns: Ints
    uptime_ms: Ints


def heard(datagram: int, received_ns: int, export_ns: int, uptime_ms: int) -> tuple[Heard, bool]:
    """The circumstances of a datagram, and whether its exporter's clock is believed: one more than a day off is not.

    Then the time of receipt stands for the time of export, and the exporter's absolute times are moved by as much.
    """
    if abs(received_ns - export_ns) <= DAY_NS:
        return Heard(datagram, received_ns, export_ns, 0, uptime_ms), True
    return Heard(datagram, received_ns, received_ns, received_ns - export_ns, uptime_ms), False


def times(columns: Numbers, clock: Clock) -> tuple[Ints, Ints, Mask]:
    """First and last packet of each flow, start <= end, and which of them had to be replaced by the time of export.

    The best that is told: absolute times, times on the exporter's uptime clock, times before export, a duration; else
    the time of export. A flow that ended more than a day from its export is taken to have ended with it, and one longer
    than MAX_FLOW_NS to have been an instant.
    """
    start, has_start = _absolute(columns, clock, ((0, 156), (0, 154), (0, 152), (0, 150)))
    end, has_end = _absolute(columns, clock, ((0, 157), (0, 155), (0, 153), (0, 151), (0, 325), (0, 324), (0, 323), (0, 322)))
    first, last = columns.number((0, 22)), columns.number((0, 21))
    if first is not None and last is not None:
        by_uptime, span = _by_uptime(columns, clock, first, last)
        told = ((first != 0) | (last != 0)) & ~(has_start & has_end)
        end = np.where(told & ~has_end, by_uptime, end)
        start = np.where(told & ~has_start, end - span, start)
        has_start, has_end = has_start | told, has_end | told
    for element, is_start in (((0, 158), True), ((0, 159), False)):
        before = columns.number(element)
        if before is None:
            continue
        when = clock.export_ns - np.minimum(before, np.uint64(_WORD)).astype(np.int64) * _US
        if is_start:
            start, has_start = np.where(has_start, start, when), np.ones_like(has_start)
        else:
            end, has_end = np.where(has_end, end, when), np.ones_like(has_end)
    for element, unit in (((0, 161), _MS), ((0, 162), _US)):
        lasted = columns.number(element)
        if lasted is None:
            continue
        span = np.minimum(lasted, np.uint64(_WORD)).astype(np.int64) * unit
        end = np.where(has_end, end, np.where(has_start, start + span, clock.export_ns))
        start = np.where(has_start, start, end - span)
        has_start, has_end = np.ones_like(has_start), np.ones_like(has_end)
    end = np.where(has_end, end, clock.export_ns)
    start = np.where(has_start, start, end)
    span = end - start
    long = span > MAX_FLOW_NS
    far = np.abs(end - clock.export_ns) > DAY_NS
    end = np.where(far, clock.export_ns, end)
    return end - np.where(long, 0, np.maximum(span, 0)), end, far | long


def _absolute(columns: Numbers, clock: Clock, elements: tuple[Element, ...]) -> tuple[Ints, Mask]:
    """The first time that is told of several elements', moved to a clock that is believed; where one is told."""
    found = np.zeros(len(columns), np.int64)
    has = np.zeros(len(columns), np.bool_)
    for element in elements:
        raw = columns.number(element)
        if raw is None:
            continue
        told = (raw != 0) & ~has
        found = np.where(told, _since_epoch(raw, element[1]) + clock.shift_ns, found)
        has |= told
    return found, has


def _since_epoch(raw: Uints, element: int) -> Ints:
    """ns since the epoch. Seconds and milliseconds count from 1970, finer times are NTP's (RFC 7011, 6.1.7 to 6.1.10)."""
    if element in (150, 151, 322):
        return np.minimum(raw, np.uint64(_MAX_S)).astype(np.int64) * NANOSECONDS
    if element in (152, 153, 160, 323):
        return np.minimum(raw, np.uint64(_MAX_S * 1000)).astype(np.int64) * _MS
    seconds = (raw >> np.uint64(32)).astype(np.int64)
    seconds = np.where(seconds < _NTP_TO_UNIX_S, seconds + _WORD, seconds) - _NTP_TO_UNIX_S  # era 1 begins in 2036
    fraction = ((raw & np.uint64(_WORD - 1)) * np.uint64(NANOSECONDS)) >> np.uint64(32)
    return seconds * NANOSECONDS + fraction.astype(np.int64)


def _by_uptime(columns: Numbers, clock: Clock, first: Uints, last: Uints) -> tuple[Ints, Ints]:
    """When flows ended that are told on the uptime clock, which wraps at 2^32 ms, and how long they were.

    Where neither the header nor a system's initialisation time tells the uptime, the flow ended when it was exported.
    """
    uptime_ms, known = clock.uptime_ms, clock.uptime_ms != NO_UPTIME
    boot = columns.number((0, 160))
    if boot is not None:
        exporters_ns = clock.export_ns - clock.shift_ns
        uptime_ms = np.where(boot != 0, (exporters_ns - _since_epoch(boot, 160)) // _MS, uptime_ms)
        known = known | (boot != 0)
    low = np.uint64(_WORD - 1)
    first_ms, last_ms = (first & low).astype(np.int64), (last & low).astype(np.int64)
    age_ms = np.where(known, _signed(uptime_ms - last_ms), 0)
    return clock.export_ns - age_ms * _MS, np.maximum(_signed(last_ms - first_ms), 0) * _MS


def _signed(difference_ms: Ints) -> Ints:
    """A difference on a clock of 32 bits: within 24 days either way."""
    return (difference_ms + _HALF) % _WORD - _HALF
