"""What leaves the meter with closed intervals: compiled loops over the notes of those intervals. Nothing else is touched."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def free_notes(notes, first, head):
    """Links the notes from `first` on before the free list that begins at `head`; gives the new head."""
    for at in range(len(notes) - 1, first - 1, -1):
        notes[at].next = head
        head = at
    return head


@njit(cache=True, nogil=True, error_model="numpy")
def take_notes(notes, lists, rows, kind, vms, head, cells, values):
    """Takes the notes of one kind of several intervals, whose rows of the ring are given, newest first, and frees them.

    cells, values: int64[n] for all n of them; a cell is the interval's place in `rows` x VMs + VM. Gives the free list's
    new head. lists: int64[rows, kinds, 2], the newest note and how many.
    """
    taken = 0
    for place in range(len(rows) - 1, -1, -1):
        at = lists[rows[place], kind, 0]
        while at != -1:
            note = notes[at]
            cells[taken], values[taken] = place * vms + note.vm, note.value
            taken += 1
            following = note.next
            note.next = head
            head = at
            at = following
        lists[rows[place], kind, 0], lists[rows[place], kind, 1] = -1, 0
    return head


@njit(cache=True, nogil=True, error_model="numpy")
def order_by_vm(cells, values, vms, ordered_vm, ordered_value):
    """Orders notes by VM, then value. They come newest first: turned around, those of a VM are mostly in order."""
    ends = np.zeros(vms + 1, np.int64)
    for cell in cells:
        ends[cell % vms + 1] += 1
    ends = np.cumsum(ends)
    at = ends[1:].copy()
    for i in range(len(cells)):
        vm = cells[i] % vms
        at[vm] -= 1
        ordered_vm[at[vm]], ordered_value[at[vm]] = vm, values[i]
    for vm in range(vms):
        for i in range(ends[vm] + 1, ends[vm + 1]):
            if ordered_value[i] < ordered_value[i - 1]:
                part = ordered_value[ends[vm] : ends[vm + 1]]
                part[:] = np.sort(part)
                break


@njit(cache=True, nogil=True, error_model="numpy")
def cell_quantiles(cells, values, levels, quantiles):
    """Quantiles of the values in each cell by linear interpolation; quantiles: float64[levels, cells], NaN to begin with."""
    ends = np.zeros(quantiles.shape[1] + 1, np.int64)
    for cell in cells:
        ends[cell + 1] += 1
    ends = np.cumsum(ends)
    at = ends[:-1].copy()
    grouped = np.empty(len(values), values.dtype)
    for i in range(len(values)):
        grouped[at[cells[i]]] = values[i]
        at[cells[i]] += 1
    for cell in range(quantiles.shape[1]):
        if ends[cell + 1] > ends[cell]:
            ordered = np.sort(grouped[ends[cell] : ends[cell + 1]])
            for k in range(len(levels)):
                rank = (len(ordered) - 1) * levels[k]
                low = np.int64(np.floor(rank))
                high = min(low + 1, len(ordered) - 1)
                quantiles[k, cell] = ordered[low] + (ordered[high] - ordered[low]) * (rank - low)
