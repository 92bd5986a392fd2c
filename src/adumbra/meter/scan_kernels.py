"""Tells scanners and background radiation from clients, by what each foreign source tries and completes. Compiled.

A source that tried many targets of which few answered is a scanner; a single SYN to a port that the VM doesn't declare is
background radiation. What is marked so is still counted as observed, and also as scanned.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from adumbra.meter.book_kernels import row_if_open
from adumbra.meter.compiled import inlined
from adumbra.meter.hash_kernels import mix
from adumbra.meter.layout import (
    CLIENT_IS_B,
    IPV4_HIGH,
    LISTED,
    ORDINARY,
    SCAN_BITS,
    SCAN_BYTES,
    SCAN_MEMORY_NS,
    SCAN_PER_MILLION,
    SCAN_TARGETS,
    SCANNED,
    SCANNED_ATTEMPTS,
    SCANNED_COUNT,
    SCANNER,
    SCANNERS,
    SEED,
    SOURCES_EVICTED,
    TCP,
    UNDECLARED,
    UNKNOWN,
    WAYS,
)

_ONE, _S32, _LOW = np.uint64(1), np.uint64(32), np.uint64(0xFFFFFFFF)
_M1 = np.uint64(0xFF51AFD7ED558CCD)


@inlined
def _bits(x):
    """How many bits are set."""
    found = 0
    while x:
        x &= x - _ONE
        found += 1
    return found


@inlined
def _find(hi, lo, version, now_ns, origins, book, adding):
    """A source's slot; -1 where it isn't known and isn't to be added. The stalest that is no scanner gives way."""
    sources, scalars, asked = origins.sources, book.scalars, book.asked
    key = IPV4_HIGH if version == 4 else hi
    sets = np.uint64(len(sources) // WAYS - 1)
    first = np.int64(mix(lo ^ mix(key ^ np.uint64(asked[SEED]))) & sets) * WAYS
    place = first
    for slot in range(first, first + WAYS):
        source = sources[slot]
        if source.standing == UNKNOWN:
            place = slot
            break
        if source.lo == lo and source.hi == key:
            if now_ns - source.last_ns > asked[SCAN_MEMORY_NS]:  # it begins anew
                place = slot
                break
            return slot
        other = sources[place]
        if (source.standing, source.last_ns) < (other.standing, other.last_ns):
            place = slot
    if not adding:
        return np.int64(-1)
    source = sources[place]
    scalars[SOURCES_EVICTED] += source.standing != UNKNOWN and now_ns - source.last_ns <= asked[SCAN_MEMORY_NS]
    source.hi, source.lo, source.targets, source.last_ns, source.last = key, lo, 0, now_ns, -1
    source.attempts, source.completions, source.listed, source.standing, source.called = 0, 0, 0, ORDINARY, 0
    return np.int64(place)


@inlined
def _few_complete(source, asked):
    return np.int64(source.completions) * 1_000_000 < np.int64(source.attempts) * asked[SCAN_PER_MILLION]


@inlined
def _write(interval, vm, size, attempts, sign, book):
    """Adds an attempt to what is counted as scanned in its interval, or takes it out again, if that is still open."""
    row = row_if_open(interval, book)
    if row >= 0:
        book.ring[row, vm, SCANNED_COUNT] += sign * attempts
        book.ring[row, vm, SCAN_BYTES] += sign * size
        book.scalars[SCANNED_ATTEMPTS] += sign * attempts


@inlined
def _is_client(at, hi, lo, table):
    """Whether an entry's client has this address."""
    entry, client_is_b = table.entries[at], table.entries[at].state & CLIENT_IS_B
    if entry.version == 4:
        return (entry.key & _LOW if client_is_b else entry.key >> _S32) == lo
    kept = table.addresses[at]
    return (kept.b_lo if client_is_b else kept.a_lo) == lo and (kept.b_hi if client_is_b else kept.a_hi) == hi


@inlined
def _judge_listed(source, sign, origins, table, book):
    """Marks what a source tried before it was known for a scanner, or takes these marks away."""
    attempts, number = origins.attempts, source.last
    for _ in range(source.listed):
        if number < 0 or number < book.scalars[LISTED] - len(attempts):
            break  # others have been written over it
        listed = attempts[number % len(attempts)]
        _write(listed.interval, listed.vm, listed.bytes, listed.count, sign, book)
        entry = table.entries[listed.entry]
        if table.bucket_of[listed.entry] >= 0 and _is_client(listed.entry, source.hi, source.lo, table):
            entry.state = np.uint32(entry.state | SCANNED if sign > 0 else entry.state & ~SCANNED)
        number = listed.before


@inlined
def _declared(vm, port, origins):
    """Whether a VM declares a port, or none at all."""
    first, end = origins.starts[vm], origins.starts[vm + 1]
    for at in range(first, end):
        if origins.ports[at] == port:
            return True
    return first == end


@inlined
def note_attempt(at, hi, lo, port, vm, now_ns, interval, size, origins, table, book):
    """A foreign source tries a port of a VM, by the entry `at`: whether that is demand.

    interval, size: of the packet that did. An entry that is marked here counts its bytes as it goes on.
    """
    entry, asked, scalars = table.entries[at], book.asked, book.scalars
    slot = _find(hi, lo, entry.version, now_ns, origins, book, True)
    source = origins.sources[slot]
    source.attempts += np.uint32(1)
    source.last_ns = max(source.last_ns, now_ns)
    # Not keyed: what is called a scan must not depend on the seed. Who crafts targets that collide only hides himself.
    source.targets |= _ONE << (mix(np.uint64(vm) << _S32 | np.uint64(port)) & np.uint64(63))
    attempts = 1 if entry.protocol == TCP else 0
    if source.standing != SCANNER and _few_complete(source, asked) and _bits(source.targets) >= asked[SCAN_BITS]:
        source.standing = SCANNER
        scalars[SCANNERS] += source.called == 0
        source.called = 1
        _judge_listed(source, 1, origins, table, book)
    if source.standing == SCANNER:
        entry.state |= np.uint32(SCANNED)
        _write(interval, vm, 0, attempts, 1, book)
    elif attempts and not _declared(vm, port, origins):
        entry.state |= np.uint32(SCANNED | UNDECLARED)
        _write(interval, vm, 0, attempts, 1, book)
    else:
        listed = origins.attempts[scalars[LISTED] % len(origins.attempts)]
        listed.before, listed.interval, listed.entry, listed.vm = source.last, interval, at, vm
        listed.bytes, listed.count = size, attempts
        source.last = scalars[LISTED]
        source.listed = min(source.listed + 1, asked[SCAN_TARGETS])
        scalars[LISTED] += 1


@inlined
def note_completion(at, hi, lo, vm, now_ns, origins, table, book):
    """A foreign source's attempt is answered, and goes on: a scanner that completes enough stops being one."""
    entry, birth = table.entries[at], table.births[at]
    slot = _find(hi, lo, entry.version, now_ns, origins, book, False)
    scanner = False
    if slot >= 0:
        source = origins.sources[slot]
        source.completions += np.uint32(1)
        if source.standing == SCANNER and not _few_complete(source, book.asked):
            source.standing = ORDINARY
            _judge_listed(source, -1, origins, table, book)
        scanner = source.standing == SCANNER
    if entry.state & SCANNED and not scanner:
        entry.state &= np.uint32(~(SCANNED | UNDECLARED))
        _write(birth.interval, vm, birth.bytes, 1 if entry.protocol == TCP else 0, -1, book)


@inlined
def note_persistence(at, hi, lo, vm, now_ns, origins, table, book):
    """An attempt at a port that isn't declared was repeated or answered: it is no background radiation."""
    entry, birth = table.entries[at], table.births[at]
    entry.state &= np.uint32(~UNDECLARED)
    slot = _find(hi, lo, entry.version, now_ns, origins, book, False)
    if slot < 0 or origins.sources[slot].standing != SCANNER:
        entry.state &= np.uint32(~SCANNED)
        _write(birth.interval, vm, birth.bytes, 1, -1, book)
