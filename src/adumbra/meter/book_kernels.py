"""Writing things down: counters of the open intervals, notes, and which intervals are open. Compiled; allocates nothing."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from adumbra.meter.compiled import compiled, inlined
from adumbra.meter.layout import (
    CHUNK,
    CHUNKS_USED,
    CLOCK,
    CLOSE_TO,
    EARLIEST,
    FILL_BUDGET,
    FREE_CHUNK,
    GAP,
    GRACE,
    INTERVAL_NS,
    LATE,
    LATEST,
    MAX_QUIET,
    MISSED,
    MISSED_UNPLACED,
    NOT_STARTED,
    NOTES_DROPPED,
    OLDEST,
)

_BUDGET_PER_BUSY = 20


@inlined
def count(ring, row, vm_a, vm_b, counter, change):
    """Adds to both ends' counters in a row of the ring, once where they are one VM."""
    ring[row, max(vm_a, np.int32(-1)), counter] += change
    ring[row, max(vm_b, np.int32(-1)) if vm_b != vm_a else np.int32(-1), counter] += change


@inlined
def note(book, row, kind, vm, value):
    """Keeps a value of a VM in a list of an interval."""
    if vm >= 0:
        count_before = book.lists[row, kind, 1]
        place = count_before & (CHUNK - 1)
        if place != 0 or _add_chunk(row, kind, book.scalars, book.lists, book.following):
            chunk = book.lists[row, kind, 0]
            book.values[chunk, place], book.noted[chunk, place] = value, vm
            book.lists[row, kind, 1] = count_before + 1


@compiled
def _add_chunk(row, kind, scalars, lists, following):
    """Takes a free chunk into a list; False where there is none."""
    chunk = scalars[FREE_CHUNK]
    if chunk == -1:
        scalars[NOTES_DROPPED] += 1
        return False
    scalars[FREE_CHUNK], scalars[CHUNKS_USED] = following[chunk], scalars[CHUNKS_USED] + 1
    following[chunk], lists[row, kind, 0] = lists[row, kind, 0], chunk
    return True


@inlined
def row_if_open(interval, book):
    """The row of an interval, or -1 where it isn't open, or wouldn't be if batches ended here."""
    oldest = max(book.scalars[OLDEST], book.scalars[CLOCK] // book.asked[INTERVAL_NS] - book.asked[GRACE])
    rows = len(book.ring)
    return interval % rows if oldest <= interval < oldest + rows else -1


@compiled
def reach(interval, book):
    """Notes that something happens in an interval; whether others must be closed before it can be counted there.

    The quiet since the last one is filled if it is short, or if enough happened before to earn it; else it is a gap.
    """
    scalars, asked, rows = book.scalars, book.asked, len(book.ring)
    quiet = interval - scalars[LATEST] - 1
    if quiet >= 0:
        if quiet > rows - asked[GRACE] - 2:
            if quiet > asked[MAX_QUIET] or quiet > scalars[FILL_BUDGET]:
                scalars[GAP] = scalars[LATEST] + 1
            else:
                scalars[FILL_BUDGET] -= quiet
        scalars[LATEST] = interval
        scalars[FILL_BUDGET] += _BUDGET_PER_BUSY
    scalars[CLOSE_TO] = interval
    return scalars[GAP] != 0 or interval >= scalars[OLDEST] + rows


@compiled
def note_missed(packets, missed, scalars, asked):
    """Notes packets that were any VM's, of now: in the newest interval, or in the first that is given at all."""
    if scalars[OLDEST] == NOT_STARTED:
        scalars[MISSED_UNPLACED] += packets
    else:
        interval = max(scalars[CLOCK] // asked[INTERVAL_NS], scalars[OLDEST])
        scalars[LATEST] = max(scalars[LATEST], interval)
        missed[interval % len(missed)] += packets


@compiled
def begin_time(now_ns, interval, scalars, asked):
    """The first packet of all sets the clock; those before it are taken up to the lateness."""
    scalars[CLOCK], scalars[LATEST], scalars[EARLIEST] = now_ns, interval, interval
    scalars[OLDEST] = interval - asked[GRACE]


@compiled
def note_late(source, target, book):
    """Counts a packet whose interval is closed as missed, in the oldest that is still open."""
    scalars, asked = book.scalars, book.asked
    still_open = max(scalars[CLOCK] // asked[INTERVAL_NS] - asked[GRACE], scalars[OLDEST], scalars[EARLIEST])
    scalars[LATE] += 1
    scalars[LATEST] = max(scalars[LATEST], still_open)
    count(book.ring, still_open % len(book.ring), source, target, MISSED, 1)
