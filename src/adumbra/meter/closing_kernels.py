"""What leaves the meter with closed intervals: compiled loops over the notes of those intervals. Nothing else is touched."""

from __future__ import annotations

import numpy as np

from adumbra.meter.compiled import allocating
from adumbra.meter.layout import CHUNK

_MOVES_A_NOTE = 16
_ROUNDS = 64  # of n values, a selection takes some log2 n


@allocating
def free_chunks(following, first, head):
    """Links the chunks from `first` on before the free list that begins at `head`; gives the new head."""
    for at in range(len(following) - 1, first - 1, -1):
        following[at] = head
        head = at
    return head


@allocating
def take_notes(notes, lists, rows, kind, vms, head, cells, values):
    """Takes the notes of one kind of several intervals, whose rows of the ring are given, oldest first, and frees their chunks.

    notes: values, VMs and following chunks. cells, values: int64[n] for all n of them; a cell is the interval's place in
    `rows` x VMs + VM. Gives the free list's new head, and how many chunks were freed.
    """
    kept, noted, following = notes
    begin, freed = 0, 0
    for place in range(len(rows)):
        chunk, left = lists[rows[place], kind, 0], lists[rows[place], kind, 1]
        begin += left
        end = begin
        while chunk != -1:
            count = (left - 1) % CHUNK + 1  # only the newest chunk isn't full
            end -= count
            for k in range(count):
                cells[end + k], values[end + k] = place * vms + noted[chunk, k], kept[chunk, k]
            left -= count
            before = following[chunk]
            following[chunk], head = head, chunk
            chunk = before
            freed += 1
        lists[rows[place], kind, 0], lists[rows[place], kind, 1] = -1, 0
    return head, freed


@allocating
def _ends(cells, count):
    """Where the values of each cell end, if they stand together, in order: int64[count + 1], from 0."""
    ends = np.zeros(count + 1, np.int64)
    for cell in cells:
        ends[cell + 1] += 1
    return np.cumsum(ends)


@allocating
def order_by_vm(cells, values, vms, ordered_vm, ordered_value):
    """Orders notes by VM, then value. They come in the order of arrival, so that those of a VM are mostly in order.

    Each is moved to its place among those before it, until too much has been moved: then what is left is sorted.
    """
    first = _ends(cells % vms, vms)
    at, moves = first.copy(), _MOVES_A_NOTE * len(cells)
    for i in range(len(cells)):
        vm = cells[i] % vms
        value, place = values[i], at[vm]
        while moves > 0 and place > first[vm] and ordered_value[place - 1] > value:
            ordered_value[place] = ordered_value[place - 1]
            place -= 1
            moves -= 1
        ordered_value[place] = value
        ordered_vm[at[vm]] = vm
        at[vm] += 1
    for vm in range(vms if moves <= 0 else 0):
        part = ordered_value[first[vm] : first[vm + 1]]
        part[:] = np.sort(part)


@allocating
def _select(values, first, last, place):
    """Moves values[first:last + 1] about until the one that would stand at `place` if they were in order does (Hoare's FIND).

    Values that make it slow, by chance or on purpose, are sorted instead.
    """
    for _ in range(_ROUNDS):
        if first >= last:
            return
        pivot, low, high = values[(first + last) // 2], first, last
        while low <= high:
            while values[low] < pivot:
                low += 1
            while pivot < values[high]:
                high -= 1
            if low <= high:
                values[low], values[high] = values[high], values[low]
                low, high = low + 1, high - 1
        if place <= high:
            last = high
        elif place >= low:
            first = low
        else:
            return
    part = values[first : last + 1]
    part[:] = np.sort(part)


@allocating
def cell_quantiles(cells, values, levels, quantiles):
    """Quantiles of the values in each cell by linear interpolation; quantiles: float64[levels, cells], NaN to begin with.

    Levels increase: what is below one is out of the way of the next.
    """
    ends = _ends(cells, quantiles.shape[1])
    at = ends[:-1].copy()
    grouped = np.empty(len(values), values.dtype)
    for i in range(len(values)):
        grouped[at[cells[i]]] = values[i]
        at[cells[i]] += 1
    for cell in range(quantiles.shape[1]):
        first, last = ends[cell], ends[cell + 1] - 1
        for k in range(len(levels) if last >= first else 0):
            rank = (ends[cell + 1] - 1 - ends[cell]) * levels[k]
            share, low = rank - np.floor(rank), ends[cell] + np.int64(np.floor(rank))
            _select(grouped, first, last, low)
            following = grouped[low]
            if low < last:
                following = grouped[low + 1 : last + 1].min()
            quantiles[k, cell] = grouped[low] + (following - grouped[low]) * share
            first = low
