"""Whose an address is: the compiled look-up over columns of addresses. No state."""

from __future__ import annotations

import numpy as np

from adumbra.meter.compiled import compiled, inlined
from adumbra.meter.layout import IPV4_HIGH

_ONE, _S33 = np.uint64(1), np.uint64(33)
_M1, _M2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)


@inlined
def _slot(hi, lo, mask):
    """The first place to look for an address. The table holds the spec's addresses only: nobody can craft collisions."""
    x = lo ^ hi * _M1
    x ^= x >> _S33
    x *= _M2
    return (x ^ (x >> _S33)) & mask


@compiled
def fill_table(hi, lo, owner, table_hi, table_lo, table_owner):
    """Puts addresses into an open-addressed table whose size is a power of two; an owner of -1 marks an empty slot."""
    mask = np.uint64(len(table_hi) - 1)
    for i in range(len(hi)):
        slot = _slot(hi[i], lo[i], mask)
        while table_owner[slot] != -1:
            slot = (slot + _ONE) & mask
        table_hi[slot], table_lo[slot], table_owner[slot] = hi[i], lo[i], owner[i]


@compiled
def _range_owner(hi, lo, starts_hi, starts_lo, owners):
    """The owner of the last range that begins at or before an address; -1 before the first."""
    low, high = 0, len(owners)
    while low < high:
        middle = (low + high) // 2
        if starts_hi[middle] < hi or (starts_hi[middle] == hi and starts_lo[middle] <= lo):
            low = middle + 1
        else:
            high = middle
    return owners[low - 1] if low else np.int32(-1)


@inlined
def _owner(hi, lo, version, table, four, six):
    """An address's owner: by exact match first, then by range."""
    table_hi, table_lo, table_owner = table
    mask = np.uint64(len(table_hi) - 1)
    key = IPV4_HIGH if version == 4 else hi
    slot = _slot(key, lo, mask)
    while table_owner[slot] != -1 and not (table_lo[slot] == lo and table_hi[slot] == key):
        slot = (slot + _ONE) & mask
    if table_owner[slot] != -1 and (version == 4 or hi != IPV4_HIGH):
        return table_owner[slot]
    if version == 4:
        return _range_owner(hi, lo, four[0], four[1], four[2])
    return _range_owner(hi, lo, six[0], six[1], six[2])


@compiled
def assign(outcome, version, src_hi, src_lo, dst_hi, dst_lo, table, four, six, src_vm, dst_vm):
    """Each address's owner; rows that weren't parsed get -1. table, four, six: upper and lower halves, owners."""
    lo4, owners4 = four[1], four[2]
    # Most foreign addresses lie before the first range or after the last.
    first4, last4 = (lo4[0], lo4[-1] if owners4[-1] == -1 else IPV4_HIGH) if len(lo4) else (IPV4_HIGH, IPV4_HIGH)
    for i in range(len(outcome)):
        src_vm[i] = dst_vm[i] = -1
        if outcome[i] != 0:
            continue
        kind = version[i]
        # Both ends in one go: which of them is the network's can't be foreseen, but where one is the other mostly isn't.
        if kind != 4 or first4 <= src_lo[i] < last4:
            src_vm[i] = _owner(src_hi[i], src_lo[i], kind, table, four, six)
        if kind != 4 or first4 <= dst_lo[i] < last4:
            dst_vm[i] = _owner(dst_hi[i], dst_lo[i], kind, table, four, six)
