"""Spreads flow records over the cells of intervals and VMs. Compiled; allocates nothing, closes nothing, reads no clock."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from adumbra.meter.compiled import compiled, inlined
from adumbra.meter.flow_cell_kernels import (
    ACTIVE,
    ALWAYS,
    ATTEMPTED,
    ATTEMPTED_TOLD,
    ATTRIBUTED,
    BLOCK,
    BLOCK_BITS,
    CLOCK,
    DONE,
    ESTABLISHED,
    ESTABLISHED_TOLD,
    FAILED,
    FAILED_TOLD,
    FOREIGN,
    FREE,
    GRACE,
    INITIATED,
    INITIATED_TOLD,
    INTERVAL_NS,
    LATE,
    LATES,
    MOST_INTERVALS,
    NEED_FIRST,
    NEED_LAST,
    NEVER,
    NO_CELLS,
    NO_PEERS,
    OLDEST,
    PEERS,
    PEERS_USED,
    RX_BYTES,
    RX_BYTES_TOLD,
    RX_PACKETS,
    RX_PACKETS_TOLD,
    RX_SEEN,
    SATURATED,
    SCAN_BYTES,
    SCANNED,
    SCANNED_ATTEMPTS,
    SEED,
    STARTED,
    T_ACTIVE,
    T_ATTEMPTED,
    T_BYTES,
    T_ESTABLISHED,
    T_FAILED,
    T_INITIATED,
    T_PACKETS,
    T_SAMPLED,
    TCP_SEEN,
    TOLD,
    TX_BYTES,
    TX_BYTES_TOLD,
    TX_PACKETS,
    TX_PACKETS_TOLD,
    TX_SEEN,
    UNCLAIMED,
    UNCOUNTED,
    VMS,
    add,
    count,
    find,
    meet,
    part,
)
from adumbra.meter.flow_origin_kernels import (
    find_source,
    is_scan,
    judge,
)

_MOST = 1 << 53  # no row is believed to stand for more bytes, packets or connections
_UNTOLD = -1
_TCP = 6
_LAST_NS = 1 << 62


@inlined
def _tell(what, count, scalars):
    """Notes that the source tells of something, and from which interval on that was known."""
    if count >= 0 and scalars[what] == NEVER:
        scalars[what] = scalars[OLDEST]


@compiled
def _learn(i, flows, whole, scalars):
    """What a row says of its source: what it tells at all."""
    _tell(T_BYTES, flows.bytes[i], scalars)
    _tell(T_PACKETS, flows.packets[i], scalars)
    _tell(T_SAMPLED, 1 if flows.rate[i] > 1 else -1, scalars)
    if flows.protocol[i] == _TCP:
        _tell(T_ATTEMPTED, flows.attempted[i], scalars)
        _tell(T_INITIATED, flows.attempted[i] if _tells_initiator(i, flows) else -1, scalars)
        _tell(T_ESTABLISHED, flows.established[i], scalars)
        _tell(T_FAILED, flows.failed[i], scalars)
        _tell(T_ACTIVE, flows.established[i] if whole and flows.from_client[i] == 1 else -1, scalars)


@inlined
def _tells_initiator(i, flows):
    return flows.attempted[i] == 0 or (flows.attempted[i] > 0 and flows.from_client[i] >= 0)


@compiled
def _scaled(count, rate, scalars):
    """A count for all packets, of which one in `rate` was looked at; UNTOLD stays so."""
    if count < 0:
        return np.int64(_UNTOLD)
    if count > _MOST // max(rate, 1):
        scalars[UNCOUNTED] += 1
        return np.int64(_MOST)
    return count * max(rate, 1)


@compiled
def _told_bits(i, flows):
    """What a row tells of a cell of the VM that receives it, and of the VM that sends it."""
    both = 0
    if flows.protocol[i] == _TCP:
        both |= TCP_SEEN
        both |= ATTEMPTED_TOLD if flows.attempted[i] >= 0 else 0
        both |= INITIATED_TOLD if _tells_initiator(i, flows) else 0
        both |= ESTABLISHED_TOLD if flows.established[i] >= 0 else 0
        both |= FAILED_TOLD if flows.failed[i] >= 0 else 0
    received, sent = both | RX_SEEN, both | TX_SEEN
    if flows.bytes[i] >= 0:
        received, sent = received | RX_BYTES_TOLD, sent | TX_BYTES_TOLD
    if flows.packets[i] >= 0:
        received, sent = received | RX_PACKETS_TOLD, sent | TX_PACKETS_TOLD
    return received, sent


@compiled
def _span(i, flows, asked):
    """A row's first and last time, ns. One that is longer than can be is taken for an instant, at its end."""
    end_ns = min(max(flows.end_ns[i], 0), _LAST_NS)
    start_ns = min(max(flows.start_ns[i], 0), end_ns)
    if end_ns // asked[INTERVAL_NS] - start_ns // asked[INTERVAL_NS] >= asked[MOST_INTERVALS]:
        start_ns = end_ns
    return start_ns, end_ns


@compiled
def _lacks_cells(first, last, vm_a, vm_b, cells, scalars, asked):
    """Whether more blocks of cells are needed for these intervals than are free."""
    scalars[NEED_FIRST], scalars[NEED_LAST] = first >> BLOCK_BITS, last >> BLOCK_BITS
    missing = 0
    for block in range(first >> BLOCK_BITS, (last >> BLOCK_BITS) + 1):
        missing += vm_a >= 0 and find(cells, block, vm_a, asked[VMS]) < 0
        missing += vm_b >= 0 and vm_b != vm_a and find(cells, block, vm_b, asked[VMS]) < 0
    return missing > scalars[FREE]


@compiled
def _note_late(packets, vm_a, vm_b, late, scalars):
    """Notes packets for which the intervals were closed already, at the oldest that is open."""
    for vm in (vm_a, vm_b if vm_b != vm_a else np.int32(-1)):
        if vm >= 0:
            late[scalars[LATES], 0], late[scalars[LATES], 1], late[scalars[LATES], 2] = scalars[OLDEST], vm, packets
            scalars[LATES] += 1


@compiled
def _count_connections(i, flows, first, last, whole, scan, cells, scalars, asked):
    """Counts the connections that a row begins and completes where it begins, and those that it fails where it ends."""
    sender, receiver, vms, rate = flows.src_vm[i], flows.dst_vm[i], asked[VMS], flows.rate[i]
    attempted, established = _scaled(flows.attempted[i], rate, scalars), _scaled(flows.established[i], rate, scalars)
    failed = _scaled(flows.failed[i], rate, scalars)
    initiator = sender if flows.from_client[i] == 1 else receiver if flows.from_client[i] == 0 else np.int32(-1)
    lasts = whole and flows.from_client[i] == 1 and established > 0
    opened = max(first, scalars[OLDEST])
    for vm in (sender, receiver if receiver != sender else np.int32(-1)):
        if vm < 0:
            continue
        if first >= scalars[OLDEST]:
            row, at = find(cells, first >> BLOCK_BITS, vm, vms), first & (BLOCK - 1)
            if attempted > 0:
                count(cells, row, at, ATTEMPTED, attempted)
                if vm == initiator:
                    count(cells, row, at, INITIATED, attempted)
                if scan and vm == receiver:
                    count(cells, row, at, SCANNED, attempted)
                    scalars[SCANNED_ATTEMPTS] += attempted
            if established > 0:
                count(cells, row, at, ESTABLISHED, established)
        if failed > 0:
            count(cells, find(cells, last >> BLOCK_BITS, vm, vms), last & (BLOCK - 1), FAILED, failed)
        if lasts and last > opened:
            count(cells, find(cells, opened >> BLOCK_BITS, vm, vms), opened & (BLOCK - 1), ACTIVE, established)
            count(cells, find(cells, last >> BLOCK_BITS, vm, vms), last & (BLOCK - 1), ACTIVE, -established)


@compiled
def _spread(i, flows, span, counts, scan, cells, peers, late, scalars, asked):
    """Spreads a row's bytes and packets (scaled) over its intervals, in proportion to how long it lay in each."""
    sender, receiver, vms, interval_ns = flows.src_vm[i], flows.dst_vm[i], asked[VMS], asked[INTERVAL_NS]
    start_ns, end_ns = span
    size, packets = counts
    length_ns, seed = end_ns - start_ns + 1, asked[SEED]
    first, last = start_ns // interval_ns, end_ns // interval_ns
    received, sent = _told_bits(i, flows)
    size_before, packets_before = np.int64(0), np.int64(0)
    opened = max(first, scalars[OLDEST])
    if opened > first:
        elapsed_ns = opened * interval_ns - start_ns
        size_before, packets_before = part(max(size, 0), elapsed_ns, length_ns), part(max(packets, 0), elapsed_ns, length_ns)
        scalars[LATE] += 1
        _note_late(packets_before if packets >= 0 else 1, sender, receiver, late, scalars)
    for block in range(opened >> BLOCK_BITS, (last >> BLOCK_BITS) + 1):
        row_s = add(cells, block, sender, vms, scalars) if sender >= 0 else np.int64(-1)
        row_r = add(cells, block, receiver, vms, scalars) if receiver >= 0 else np.int64(-1)
        for interval in range(max(opened, block << BLOCK_BITS), min(last, (block << BLOCK_BITS) + BLOCK - 1) + 1):
            upto, packets_upto = max(size, 0), max(packets, 0)
            if interval < last:
                elapsed_ns = (interval + 1) * interval_ns - start_ns
                upto, packets_upto = part(upto, elapsed_ns, length_ns), part(packets_upto, elapsed_ns, length_ns)
            here, packets_here = upto - size_before, packets_upto - packets_before
            size_before, packets_before, at = upto, packets_upto, interval & (BLOCK - 1)
            met = packets_here > 0 or (packets < 0 and here > 0) or (packets < 0 and size < 0)
            variance = np.float64(packets_here) * (max(flows.rate[i], 1) - 1)
            if row_s >= 0:
                cells.counts[row_s, at, TOLD] |= sent
                count(cells, row_s, at, TX_BYTES, here)
                count(cells, row_s, at, TX_PACKETS, packets_here)
                cells.variance[row_s, at] += variance
                if met and meet(flows.dst_hi[i], flows.dst_lo[i], flows.version[i], sender, interval, peers, scalars, seed):
                    cells.counts[row_s, at, PEERS] += 1
            if row_r >= 0:
                cells.counts[row_r, at, TOLD] |= received
                count(cells, row_r, at, RX_BYTES, here)
                count(cells, row_r, at, RX_PACKETS, packets_here)
                cells.variance[row_r, at] += variance
                if scan:
                    count(cells, row_r, at, SCAN_BYTES, here)
                if met and meet(flows.src_hi[i], flows.src_lo[i], flows.version[i], receiver, interval, peers, scalars, seed):
                    cells.counts[row_r, at, PEERS] += 1


@inlined
def _meetings(packets, rate, intervals):
    """How many of its intervals a row's packets may fall into at most."""
    return min(intervals, packets * max(rate, 1)) if 0 <= packets < 1 << 20 and rate < 1 << 20 else intervals


@compiled
def meter(first_row, flows, whole, cells, peers, origins, late, scalars, asked):
    """Meters rows from `first_row` on. Returns DONE, or the row before which there must be room, and for what."""
    interval_ns, grace = asked[INTERVAL_NS], asked[GRACE]
    for i in range(first_row, len(flows.start_ns)):
        start_ns, end_ns = _span(i, flows, asked)
        first, last = start_ns // interval_ns, end_ns // interval_ns
        if not scalars[STARTED]:
            scalars[STARTED], scalars[CLOCK] = 1, end_ns
            scalars[OLDEST] = max(scalars[OLDEST], last - grace if grace >= 0 else ALWAYS)
        if end_ns > scalars[CLOCK]:
            scalars[CLOCK] = end_ns
            if grace >= 0:
                scalars[OLDEST] = max(scalars[OLDEST], last - grace)
        _learn(i, flows, whole, scalars)
        sender, receiver = flows.src_vm[i], flows.dst_vm[i]
        if sender < 0 and receiver < 0:
            scalars[UNCLAIMED if sender == -2 or receiver == -2 else FOREIGN] += 1
            continue
        if last >= scalars[OLDEST]:
            opened = max(first, scalars[OLDEST])
            if _lacks_cells(opened, last, sender, receiver, cells, scalars, asked):
                return i, NO_CELLS
            wanted = scalars[PEERS_USED] + 2 * _meetings(flows.packets[i], flows.rate[i], last - opened + 1)
            if wanted * 4 >= len(peers) * 3 and scalars[SATURATED] != scalars[OLDEST]:
                return i, NO_PEERS
        scalars[ATTRIBUTED] += 1
        size, packets = _scaled(flows.bytes[i], flows.rate[i], scalars), _scaled(flows.packets[i], flows.rate[i], scalars)
        if start_ns != flows.start_ns[i] or end_ns != flows.end_ns[i]:
            scalars[UNCOUNTED] += 1
        span = (start_ns, end_ns)
        if last < scalars[OLDEST]:
            scalars[LATE] += 1
            _note_late(packets if packets >= 0 else 1, sender, receiver, late, scalars)
            continue
        scan = False
        if sender == -1:
            scan = is_scan(i, flows, max(size, 0), span, origins, cells, scalars, asked)
        elif receiver == -1 and flows.from_client[i] == 0 and flows.established[i] > 0:
            slot = find_source(flows.dst_hi[i], flows.dst_lo[i], flows.version[i], end_ns, origins, scalars, asked, False)
            if slot >= 0:  # a connection that the server's row tells of as completed
                origins.sources[slot].completions += flows.established[i]
                judge(slot, origins, cells, scalars, asked)
        _spread(i, flows, span, (size, packets), scan, cells, peers, late, scalars, asked)
        _count_connections(i, flows, first, last, whole, scan, cells, scalars, asked)
    return len(flows.start_ns), DONE
