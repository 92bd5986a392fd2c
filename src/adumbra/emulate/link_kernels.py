"""Compiled: a link with a finite buffer whose rate is a token bucket's: a baseline always, a peak while credit lasts. No
chance.

Credit, in bytes, is spent by what is sent above the baseline and grows by what the baseline leaves unused, up to its bound.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

from adumbra.emulate.compiled import compiled
from adumbra.emulate.queueing import transmit

INITIAL_WINDOW_BYTES = 14_600.0  # ten segments: what a sender puts on the wire unacknowledged (RFC 6928)


@compiled
def delay(size_bytes, credit, peak, base):
    """How long a link takes to send so many bytes from now on, in ns: at the peak while credit lasts, then at the baseline."""
    if peak == base:
        return size_bytes / peak
    bursting = credit / (peak - base)
    if size_bytes <= peak * bursting:
        return size_bytes / peak
    return bursting + (size_bytes - peak * bursting) / base


@compiled
def flow(vm, length_ns, inflow, backlog, credit):
    """A link over a while in which bytes come evenly, `inflow` a nanosecond: the backlog and credit at its end, and the bytes
    dropped.

    Exact: from one change of the link's rate to the next, of which there are three at most: the buffer empty, or no credit.
    """
    peak, base = vm.peak_bytes_per_ns, vm.base_bytes_per_ns
    dropped, left = 0.0, length_ns
    while left > 0.0:
        rate = peak if credit > 0.0 else base
        step, ends_credit, empties = left, False, False
        busy = backlog > 0.0 or inflow > rate
        used = rate if busy else inflow
        if used > base and credit <= (used - base) * step:
            step, ends_credit = credit / (used - base), True
        if busy and inflow < rate and backlog <= (rate - inflow) * step:
            step, empties, ends_credit = backlog / (rate - inflow), True, False
        if busy:
            backlog = 0.0 if empties else backlog + (inflow - rate) * step
            if backlog > vm.buffer_bytes:
                dropped += backlog - vm.buffer_bytes
                backlog = vm.buffer_bytes
        credit = 0.0 if ends_credit else min(max(credit + (base - used) * step, 0.0), vm.credit_bytes)
        left -= step
    return backlog, credit, dropped


@compiled
def rest(vm, length_ns, backlog, credit):
    """A link over a while in which nothing comes: the backlog and credit at its end."""
    if length_ns <= 0:
        return backlog, credit
    backlog, credit, _ = flow(vm, float(length_ns), 0.0, backlog, credit)
    return backlog, credit


@compiled
def carry(vm, arrive_ns, offered, start_ns, length_ns, burst_bytes, fluid_bytes, backlog, credit, wait_ns):
    """One direction of a link over an interval, as queueing.transmit, whose rate follows its credit.

    `vm`: a record with the link's peak_bytes_per_ns, base_bytes_per_ns, credit_bytes (the most there can be) and buffer_bytes.
    Gives the backlog and credit at the end, and the bytes dropped.
    """
    peak, base = vm.peak_bytes_per_ns, vm.base_bytes_per_ns
    if peak == base:
        backlog, dropped = transmit(
            arrive_ns, offered, start_ns, length_ns, burst_bytes, fluid_bytes, peak, vm.buffer_bytes, backlog, wait_ns
        )
        return backlog, credit, dropped
    inflow, dropped, at = fluid_bytes / length_ns, 0.0, start_ns
    for i in range(len(arrive_ns)):
        backlog, credit, lost = flow(vm, float(arrive_ns[i] - at), inflow, backlog, credit)
        dropped += lost
        at = arrive_ns[i]
        wait_ns[i] = delay(backlog, credit, peak, base)
        if offered[i] != 0:
            if burst_bytes > 0.0 and backlog + burst_bytes > vm.buffer_bytes:
                offered[i] = 0
                dropped += burst_bytes
            else:
                backlog += burst_bytes
    backlog, credit, lost = flow(vm, float(start_ns + length_ns - at), inflow, backlog, credit)
    return backlog, credit, dropped + lost
