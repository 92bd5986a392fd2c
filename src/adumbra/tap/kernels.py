"""Walks the records of pcap and pcapng bytes: where each frame lies, and when it was taken. Compiled; checks every read."""

from __future__ import annotations

import numpy as np
from numba import njit

# Nothing is allocated here, so that references to arrays need not be counted: doing so at each call took a third of the time.
compiled = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
inlined = njit(cache=True, nogil=True, error_model="numpy", _nrt=False, inline="always")

MORE = 0  # the bytes end inside a record: give more
FULL = 1  # as many frames as asked for
CORRUPT = 2  # no record can begin here
BLOCK = 3  # a pcapng block that the caller must read: a section header, an interface, statistics

MAX_RECORD_BYTES = 1 << 20  # above any frame: BIG TCP stays under 512 KiB
MAX_BLOCK_BYTES = 1 << 24  # of a pcapng block, as in libpcap: some hold names or keys

EPB, SPB, PB = 6, 3, 2
SHB, IDB, ISB = 0x0A0D0D0A, 1, 5
_EPB_DROPCOUNT = 4
_LATEST_NS = np.int64(1) << np.int64(62)


@inlined
def _u16(data, at, big):
    if big:
        return np.int64(data[at]) << 8 | np.int64(data[at + 1])
    return np.int64(data[at + 1]) << 8 | np.int64(data[at])


@inlined
def _u32(data, at, big):
    if big:
        return _u16(data, at, True) << 16 | _u16(data, at + 2, True)
    return _u16(data, at + 2, False) << 16 | _u16(data, at, False)


@compiled
def walk_pcap(data, start, end, big, header, scale, old, offset, captured, length, time_ns):
    """Finds up to len(offset) records in data[start:end].

    `header`: 16 bytes a record, or 24 in the variant with an interface; `scale`: nanoseconds of the fraction's unit; `old`:
    a file before version 2.4, in which the two lengths may be swapped. Returns frames found, next position, state.
    """
    found, at = 0, start
    while found < len(offset):
        if end - at < header:
            return found, at, MORE
        cap, wire = _u32(data, at + 8, big), _u32(data, at + 12, big)
        if old and cap > wire:
            cap, wire = wire, cap
        if cap > MAX_RECORD_BYTES:
            return found, at, CORRUPT
        if end - at - header < cap:
            return found, at, MORE
        time_ns[found] = _u32(data, at, big) * 1_000_000_000 + _u32(data, at + 4, big) * scale
        offset[found], captured[found], length[found] = at + header, cap, max(wire, cap)
        at += header + cap
        found += 1
    return found, at, FULL


@compiled
def ticks_to_ns(high, low, resolution, offset_s):
    """Nanoseconds since the epoch of a pcapng time: `resolution` as if_tsresol has it (bit 7: a power of two).

    Times beyond 2^62 ns (the year 2116) are held there: no arithmetic on them overflows.
    """
    ticks = np.uint64(high) << np.uint64(32) | np.uint64(low)
    power = np.uint64(resolution & 0x7F)
    if resolution & 0x80:
        seconds = ticks >> power if power < np.uint64(64) else np.uint64(0)
        rest = ticks - (seconds << power) if power < np.uint64(64) else ticks
        if power <= np.uint64(32):
            fraction = (rest * np.uint64(1_000_000_000)) >> power
        else:  # in halves, as the product has up to 94 bits
            low = ((rest & np.uint64(0xFFFFFFFF)) * np.uint64(1_000_000_000)) >> np.uint64(32)
            product = (rest >> np.uint64(32)) * np.uint64(1_000_000_000) + low
            fraction = product >> (power - np.uint64(32)) if power < np.uint64(96) else np.uint64(0)
    else:
        per_second = np.uint64(1)
        for _ in range(min(np.int64(power), 19)):
            per_second *= np.uint64(10)
        seconds = ticks // per_second
        rest = ticks - seconds * per_second
        if power <= np.uint64(9):
            fraction = rest * (np.uint64(1_000_000_000) // per_second)
        else:
            fraction = rest // (per_second // np.uint64(1_000_000_000))
    whole = np.int64(min(seconds, np.uint64(1) << np.uint64(40))) + offset_s
    whole = max(np.int64(0), min(whole, np.int64(4_611_686_017)))
    return min(whole * 1_000_000_000 + np.int64(fraction), _LATEST_NS)


@compiled
def walk_pcapng(data, start, end, big, interfaces, last_ns, offset, captured, length, time_ns, link):
    """Finds up to len(offset) frames in the pcapng blocks of data[start:end].

    interfaces: int64[m, 4], link type, if_tsresol, if_tsoffset (s), snap length. Returns frames found, next position, state,
    last time, frames that the blocks report dropped.
    """
    found, at, dropped = 0, start, 0
    while found < len(offset):
        if end - at < 12:
            return found, at, MORE, last_ns, dropped
        kind, total = _u32(data, at, big), _u32(data, at + 4, big)
        if kind == SHB:
            return found, at, BLOCK, last_ns, dropped
        if total < 12 or total % 4 or total > MAX_BLOCK_BYTES:
            return found, at, CORRUPT, last_ns, dropped
        if end - at < total:
            return found, at, MORE, last_ns, dropped
        if _u32(data, at + total - 4, big) != total:
            return found, at, CORRUPT, last_ns, dropped
        if kind in (IDB, ISB):
            return found, at, BLOCK, last_ns, dropped
        if kind in (EPB, PB):
            if total < 32:
                return found, at, CORRUPT, last_ns, dropped
            face = _u32(data, at + 8, big) if kind == EPB else _u16(data, at + 8, big)
            if kind == PB:
                lost = _u16(data, at + 10, big)
                dropped += lost if lost != 0xFFFF else 0
            cap, wire = _u32(data, at + 20, big), _u32(data, at + 24, big)
            if face >= len(interfaces) or cap > min(total - 32, MAX_RECORD_BYTES):
                return found, at, CORRUPT, last_ns, dropped
            last_ns = ticks_to_ns(_u32(data, at + 12, big), _u32(data, at + 16, big), interfaces[face, 1], interfaces[face, 2])
            if kind == EPB:
                dropped += _epb_drops(data, at + 28 + (cap + 3) // 4 * 4, at + total - 4, big)
            offset[found] = at + 28
        elif kind == SPB:
            if len(interfaces) == 0 or total < 16:
                return found, at, CORRUPT, last_ns, dropped
            face, wire = 0, _u32(data, at + 8, big)
            snap = interfaces[0, 3]
            cap = min(wire, snap) if snap > 0 else wire
            if cap > min(total - 16, MAX_RECORD_BYTES):
                return found, at, CORRUPT, last_ns, dropped
            offset[found] = at + 12
        else:
            at += total
            continue
        captured[found], length[found], time_ns[found], link[found] = cap, max(wire, cap), last_ns, interfaces[face, 0]
        found += 1
        at += total
    return found, at, FULL, last_ns, dropped


@compiled
def _epb_drops(data, at, end, big):
    """The sum of an enhanced packet block's epb_dropcount options."""
    dropped = 0
    while end - at >= 4:
        code, size = _u16(data, at, big), _u16(data, at + 2, big)
        if code == 0 or end - at - 4 < size:
            break
        if code == _EPB_DROPCOUNT and size == 8:
            low = _u32(data, at + 8, True) if big else _u32(data, at + 4, False)
            dropped += low  # its upper half, above 4 billion frames between two packets, is not believed
        at += 4 + (size + 3) // 4 * 4
    return dropped
