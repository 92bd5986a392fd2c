"""Compiled: what is to happen in conversations, as a heap by time; of one time, in the order in which it was planned."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

from adumbra.emulate.compiled import compiled
from adumbra.emulate.traffic.conversation_layout import EVENTS, ORDER


@compiled
def _before(heap, i, j):
    if heap[i].time_ns != heap[j].time_ns:
        return heap[i].time_ns < heap[j].time_ns
    return heap[i].order < heap[j].order


@compiled
def _swap(heap, i, j):
    one, other = heap[i], heap[j]
    time_ns, took_ns, order = one.time_ns, one.took_ns, one.order
    kind, what, who, depth = one.kind, one.what, one.who, one.depth
    one.time_ns, one.took_ns, one.order = other.time_ns, other.took_ns, other.order
    one.kind, one.what, one.who, one.depth = other.kind, other.what, other.who, other.depth
    other.time_ns, other.took_ns, other.order = time_ns, took_ns, order
    other.kind, other.what, other.who, other.depth = kind, what, who, depth


@compiled
def push(book, time_ns, took_ns, kind, what, who, depth):
    heap, state = book.heap, book.state
    at = state[EVENTS]
    state[EVENTS] += 1
    state[ORDER] += 1
    event = heap[at]
    event.time_ns, event.took_ns, event.order = time_ns, took_ns, state[ORDER]
    event.kind, event.what, event.who, event.depth = kind, what, who, depth
    while at > 0 and _before(heap, at, (at - 1) // 2):
        _swap(heap, at, (at - 1) // 2)
        at = (at - 1) // 2


@compiled
def pop(book):
    """Removes the first event."""
    heap, state = book.heap, book.state
    state[EVENTS] -= 1
    last, at = state[EVENTS], 0
    _swap(heap, 0, last)
    while True:
        child = 2 * at + 1
        if child >= last:
            return
        if child + 1 < last and _before(heap, child + 1, child):
            child += 1
        if not _before(heap, child, at):
            return
        _swap(heap, child, at)
        at = child
