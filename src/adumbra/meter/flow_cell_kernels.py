"""Cells of intervals and VMs, and whom each VM met in them: what flow records are metered into. Compiled; allocates nothing."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from adumbra.meter.compiled import compiled, inlined
from adumbra.meter.hash_kernels import mix

# ---- what is counted per cell ------------------------------------------------------------------------------------------
COUNTERS = (
    "rx_bytes", "tx_bytes", "rx_packets", "tx_packets", "connections_attempted", "connections_initiated",
    "connections_established", "connections_failed", "active_change", "peers", "connections_scanned", "scan_bytes", "told",
)  # fmt: skip
(
    RX_BYTES, TX_BYTES, RX_PACKETS, TX_PACKETS, ATTEMPTED, INITIATED, ESTABLISHED, FAILED, ACTIVE, PEERS, SCANNED, SCAN_BYTES,
    TOLD,
) = range(13)  # fmt: skip

# ---- the bits of `told`: what the rows that fell into a cell were, and what they told ------------------------------------
RX_SEEN, TX_SEEN, TCP_SEEN = 1, 2, 4
RX_BYTES_TOLD, TX_BYTES_TOLD, RX_PACKETS_TOLD, TX_PACKETS_TOLD = 8, 16, 32, 64
ATTEMPTED_TOLD, INITIATED_TOLD, ESTABLISHED_TOLD, FAILED_TOLD = 128, 256, 512, 1024

BLOCK_BITS = 6
BLOCK = 1 << BLOCK_BITS  # intervals whose cells of one VM stand together

# ---- scalars -----------------------------------------------------------------------------------------------------------
(
    STARTED,
    CLOCK,  # latest end of a flow, ns
    OLDEST,  # index of the oldest open interval
    FREE,  # how many blocks of cells are free
    ATTRIBUTED, FOREIGN, UNCLAIMED, LATE,  # rows
    UNCOUNTED,  # peers, and counts or times that can't be
    LATES,  # notes of late packets
    PEERS_USED, SATURATED,  # slots of the peers' table; the OLDEST at which it was found to be full for good
    SCANNERS, SCANNED_ATTEMPTS, EVICTED,
    NEED_FIRST, NEED_LAST,  # the blocks that the row at which the kernel stopped needs
    TOLD_FROM,  # from here on: what was the oldest open interval when the source first told of ...
) = range(18)  # fmt: skip
T_BYTES, T_PACKETS, T_ATTEMPTED, T_INITIATED, T_ESTABLISHED, T_FAILED, T_ACTIVE, T_SAMPLED = range(TOLD_FROM, TOLD_FROM + 8)
SCALARS = TOLD_FROM + 8
NEVER, ALWAYS = 1 << 62, -(1 << 62)

# ---- what is asked -----------------------------------------------------------------------------------------------------
INTERVAL_NS, GRACE, VMS, MOST_INTERVALS, SEED, SCAN_TARGETS, SCAN_PER_MILLION, SCAN_MEMORY_NS = range(8)

DONE, NO_CELLS, NO_PEERS = 0, 1, 2

_FULL = 1 << 62

PEER = np.dtype([("hi", np.uint64), ("lo", np.uint64), ("interval", np.int64), ("vm", np.int32), ("version", np.int32)])

_M1 = np.uint64(0xFF51AFD7ED558CCD)
_ONE = np.uint64(1)


# ---- cells -------------------------------------------------------------------------------------------------------------


@inlined
def _slot(table, key):
    return np.int64(mix(np.uint64(key) * _M1) & np.uint64(len(table) - 1))


@compiled
def find(cells, block, vm, vms):
    """The row of a VM's cells of a block of intervals; -1 where there is none."""
    key = block * vms + vm
    slot = _slot(cells.table, key)
    while cells.table[slot] >= 0:
        if cells.keys[cells.table[slot]] == key:
            return np.int64(cells.table[slot])
        slot = (slot + 1) & (len(cells.table) - 1)
    return np.int64(-1)


@compiled
def add(cells, block, vm, vms, scalars):
    """The row of a VM's cells of a block, new if need be."""
    row = find(cells, block, vm, vms)
    if row >= 0:
        return row
    scalars[FREE] -= 1
    row = np.int64(cells.free[scalars[FREE]])
    key = block * vms + vm
    cells.keys[row] = key
    slot = _slot(cells.table, key)
    while cells.table[slot] >= 0:
        slot = (slot + 1) & (len(cells.table) - 1)
    cells.table[slot] = row
    return row


@compiled
def release(rows, cells, scalars):
    """Frees rows of cells, which must be zero, and orders the table anew."""
    for row in rows:
        cells.keys[row] = -1
        cells.free[scalars[FREE]] = row
        scalars[FREE] += 1
    cells.table[:] = -1
    for row in range(len(cells.keys)):
        if cells.keys[row] != -1:
            slot = _slot(cells.table, cells.keys[row])
            while cells.table[slot] >= 0:
                slot = (slot + 1) & (len(cells.table) - 1)
            cells.table[slot] = row


@inlined
def count(cells, row, at, counter, change):
    cells.counts[row, at, counter] = min(cells.counts[row, at, counter] + change, _FULL)


@inlined
def part(total, elapsed_ns, length_ns):
    """What of a total has come by then, rounded. It never falls as time goes on, so that differences add up to the total."""
    return min(np.int64(np.floor(np.float64(total) * (elapsed_ns / length_ns) + 0.5)), total)


# ---- peers -------------------------------------------------------------------------------------------------------------


@compiled
def meet(hi, lo, version, vm, interval, peers, scalars, seed):
    """Notes that a VM met a peer in an interval; whether for the first time in it."""
    mask = np.uint64(len(peers) - 1)
    slot = mix(mix(mix(hi ^ np.uint64(seed)) ^ lo) ^ (np.uint64(interval) * _M1 + np.uint64(vm))) & mask
    while peers[slot].vm != -1:
        peer = peers[slot]
        if peer.lo == lo and peer.interval == interval and peer.vm == vm and peer.hi == hi and peer.version == version:
            return False
        slot = (slot + _ONE) & mask
    if scalars[PEERS_USED] * 4 >= len(peers) * 3:
        scalars[UNCOUNTED] += 1
        return False
    peer = peers[slot]
    peer.hi, peer.lo, peer.vm, peer.interval, peer.version = hi, lo, vm, interval, version
    scalars[PEERS_USED] += 1
    return True


@compiled
def count_met(peers, oldest):
    """How many meetings are of intervals from `oldest` on."""
    met = 0
    for i in range(len(peers)):
        met += peers[i].vm != -1 and peers[i].interval >= oldest
    return met


@compiled
def keep_met(old, oldest, peers, scalars, seed):
    """Moves the meetings in intervals from `oldest` on into another, empty table."""
    scalars[PEERS_USED] = 0
    for i in range(len(old)):
        if old[i].vm != -1 and old[i].interval >= oldest:
            meet(old[i].hi, old[i].lo, old[i].version, old[i].vm, old[i].interval, peers, scalars, seed)
