"""Tells scanners from clients by the flow records of each foreign source: what it tried, and what it completed. Compiled."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from adumbra.meter.compiled import compiled, inlined
from adumbra.meter.flow_cell_kernels import (
    BLOCK,
    BLOCK_BITS,
    EVICTED,
    INTERVAL_NS,
    OLDEST,
    SCAN_BYTES,
    SCAN_MEMORY_NS,
    SCAN_PER_MILLION,
    SCAN_TARGETS,
    SCANNED,
    SCANNED_ATTEMPTS,
    SCANNERS,
    SEED,
    VMS,
    count,
    find,
    part,
)
from adumbra.meter.hash_kernels import mix

_UNTOLD = -1
_TCP = 6
_PROBE_PACKETS, _PROBE_BYTES = 3, 64
_M1 = np.uint64(0xFF51AFD7ED558CCD)

LISTED = 32  # rows that are remembered of a source, to be marked once it is known for a scanner, or no longer
WAYS = 8
SOURCE = np.dtype(
    [
        ("hi", np.uint64), ("lo", np.uint64), ("last_ns", np.int64), ("attempts", np.int64), ("completions", np.int64),
        ("targets", np.int32), ("listed", np.int32), ("version", np.int32), ("scanner", np.bool_), ("called", np.bool_),
    ]
)  # fmt: skip
LISTING = np.dtype([("start_ns", np.int64), ("end_ns", np.int64), ("bytes", np.int64), ("count", np.int64), ("vm", np.int32)])


@compiled
def find_source(hi, lo, version, now_ns, origins, scalars, asked, adding):
    """A foreign source's slot; -1 where it isn't known and isn't to be added. The stalest that is no scanner gives way."""
    sources = origins.sources
    sets = np.uint64(len(sources) // WAYS - 1)
    first = np.int64(mix(lo ^ mix(hi ^ np.uint64(asked[SEED]) ^ np.uint64(version))) & sets) * WAYS
    place = first
    for slot in range(first, first + WAYS):
        source = sources[slot]
        if source.version == 0:
            place = slot
            break
        if source.lo == lo and source.hi == hi and source.version == version:
            if now_ns - source.last_ns > asked[SCAN_MEMORY_NS]:  # it begins anew
                place = slot
                break
            return slot
        other = sources[place]
        if (source.scanner, source.last_ns) < (other.scanner, other.last_ns):
            place = slot
    if not adding:
        return np.int64(-1)
    source = sources[place]
    scalars[EVICTED] += source.version != 0 and now_ns - source.last_ns <= asked[SCAN_MEMORY_NS]
    source.hi, source.lo, source.version, source.last_ns = hi, lo, version, now_ns
    source.attempts, source.completions, source.targets, source.listed = 0, 0, 0, 0
    source.scanner, source.called = False, False
    return np.int64(place)


@compiled
def _mark(listed, sign, cells, scalars, asked):
    """Counts a listed attempt as scanned, or takes that back, in those of its intervals that are open."""
    interval_ns = asked[INTERVAL_NS]
    first, last = listed.start_ns // interval_ns, listed.end_ns // interval_ns
    length_ns, before = listed.end_ns - listed.start_ns + 1, np.int64(0)
    if first >= scalars[OLDEST] and listed.count > 0:
        row = find(cells, first >> BLOCK_BITS, listed.vm, asked[VMS])
        if row >= 0:
            count(cells, row, first & (BLOCK - 1), SCANNED, sign * listed.count)
            scalars[SCANNED_ATTEMPTS] += sign * listed.count
    for interval in range(max(first, scalars[OLDEST]), last + 1):
        if interval == scalars[OLDEST] and interval > first:
            before = part(listed.bytes, interval * interval_ns - listed.start_ns, length_ns)
        upto = listed.bytes
        if interval < last:
            upto = part(listed.bytes, (interval + 1) * interval_ns - listed.start_ns, length_ns)
        row = find(cells, interval >> BLOCK_BITS, listed.vm, asked[VMS])
        if row >= 0 and upto > before:
            count(cells, row, interval & (BLOCK - 1), SCAN_BYTES, sign * (upto - before))
        before = upto


@compiled
def judge(slot, origins, cells, scalars, asked):
    """Whether a source is a scanner by now; marks what it tried before, or takes these marks back, where that changes."""
    source = origins.sources[slot]
    few = source.completions * 1_000_000 < source.attempts * asked[SCAN_PER_MILLION]
    scanner = few and (source.targets >= asked[SCAN_TARGETS] or source.scanner)
    if scanner != source.scanner:
        source.scanner = scanner
        scalars[SCANNERS] += scanner and not source.called
        source.called |= scanner
        for i in range(source.listed):
            _mark(origins.listings[slot, i], 1 if scanner else -1, cells, scalars, asked)
    return scanner


@compiled
def _note_attempt(i, flows, attempted, completed, size, span, origins, cells, scalars, asked):
    """A foreign source tries a VM's port, or goes on there: whether that row is a scanner's.

    attempted, completed: of the row, unscaled; size: its bytes, scaled; span: its start and end, ns. The caller counts a
    scanner's row as scanned.
    """
    slot = find_source(flows.src_hi[i], flows.src_lo[i], flows.version[i], span[1], origins, scalars, asked, True)
    source = origins.sources[slot]
    source.last_ns = max(source.last_ns, span[1])
    if attempted > 0 or completed > 0:
        source.attempts += attempted
        source.completions += completed
        # Not keyed: what is called a scan must not depend on the seed.
        target = mix(mix(flows.dst_hi[i]) ^ mix(flows.dst_lo[i]) ^ np.uint64(flows.dst_port[i]) * _M1)
        known = False
        for k in range(source.targets):
            known |= origins.targets[slot, k] == target
        if not known and source.targets < min(asked[SCAN_TARGETS], LISTED):
            origins.targets[slot, source.targets] = target
            source.targets += 1
    scanner = judge(slot, origins, cells, scalars, asked)
    if source.listed < LISTED:  # what is listed is marked as long as its source is a scanner
        listed = origins.listings[slot, source.listed]
        listed.start_ns, listed.end_ns, listed.bytes, listed.vm = span[0], span[1], size, flows.dst_vm[i]
        listed.count = attempted * max(flows.rate[i], 1) if flows.attempted[i] > 0 else 0
        source.listed += 1
    return scanner


@inlined
def _is_probe(packets, size):
    """Whether a row looks like an attempt that came to nothing, where flags aren't told: a few packets without payload."""
    return 0 < packets <= _PROBE_PACKETS and (size < 0 or size <= _PROBE_BYTES * packets)


@compiled
def _is_undeclared(vm, port, origins):
    """Whether a VM declares ports, and not this one."""
    first, end = origins.starts[vm], origins.starts[vm + 1]
    for at in range(first, end):
        if origins.ports[at] == port:
            return False
    return first < end


@compiled
def is_scan(i, flows, size, span, origins, cells, scalars, asked):
    """Whether a row to a VM from outside the network is no demand: a scanner's, or a failed try at an undeclared port."""
    attempted, completed = flows.attempted[i], flows.established[i]
    if flows.protocol[i] == _TCP:
        if attempted == _UNTOLD:
            told = flows.rate[i] <= 1 and flows.packets[i] > 0
            attempted = 1 if told else 0
            completed = 1 if told and not _is_probe(flows.packets[i], flows.bytes[i]) else 0
        scanner = _note_attempt(i, flows, attempted, max(completed, 0), size, span, origins, cells, scalars, asked)
        failed = flows.attempted[i] > 0 and flows.failed[i] > 0 and flows.established[i] == 0
        return scanner or (failed and _is_undeclared(flows.dst_vm[i], flows.dst_port[i], origins))
    slot = find_source(flows.src_hi[i], flows.src_lo[i], flows.version[i], span[1], origins, scalars, asked, False)
    return slot >= 0 and origins.sources[slot].scanner
