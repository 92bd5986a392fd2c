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


@compiled
def assign(
    outcome, version, hi, lo, table_hi, table_lo, table_owner, hi4, lo4, owners4, hi6, lo6, owners6, vm
):  # fmt: skip
    """Each address's owner: by exact match first, then by range. Rows that weren't parsed get -1."""
    mask = np.uint64(len(table_hi) - 1)
    # Most foreign addresses lie before the first range or after the last.
    first4, last4 = (lo4[0], lo4[-1] if owners4[-1] == -1 else IPV4_HIGH) if len(lo4) else (IPV4_HIGH, IPV4_HIGH)
    for i in range(len(hi)):
        vm[i] = -1
        if outcome[i] != 0 or (version[i] == 4 and not first4 <= lo[i] < last4):
            continue
        key = IPV4_HIGH if version[i] == 4 else hi[i]
        slot = _slot(key, lo[i], mask)
        while table_owner[slot] != -1 and not (table_lo[slot] == lo[i] and table_hi[slot] == key):
            slot = (slot + _ONE) & mask
        if table_owner[slot] != -1 and (version[i] == 4 or hi[i] != IPV4_HIGH):
            vm[i] = table_owner[slot]
        elif version[i] == 4:
            vm[i] = _range_owner(hi[i], lo[i], hi4, lo4, owners4)
        else:
            vm[i] = _range_owner(hi[i], lo[i], hi6, lo6, owners6)
