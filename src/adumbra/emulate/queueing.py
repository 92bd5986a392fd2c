"""Compiled kernels: a multi-server queue and a link with a finite buffer, both carrying their state on. No chance, no clock.

Times are int64 nanoseconds since the epoch, so that splitting a run anywhere changes no bit of the result.
"""

from __future__ import annotations

from adumbra.emulate.compiled import compiled

# `offered` marks, per request, whether it is still under way (1); whoever refuses it clears it. A kernel skips the cleared.


@compiled
def serve(arrive_ns, service_ns, free_ns, patience_ns, offered, wait_ns):  # noqa: PLR0917
    """First come, first served by k servers (G/G/k), after Kiefer and Wolfowitz (1955): each takes the server free first.

    arrive_ns, service_ns: int64[n], arrivals ascending. free_ns: int64[k], when each server becomes free, as a min-heap;
    updated. A request that would wait longer than `patience_ns` is refused: its `offered` (uint8[n]) becomes 0. wait_ns:
    int64[n], written for the served. Gives the work taken on, in nanoseconds of a server.
    """
    servers = len(free_ns)
    taken = 0
    for i in range(len(arrive_ns)):
        if offered[i] == 0:
            continue
        begin = max(arrive_ns[i], free_ns[0])
        wait = begin - arrive_ns[i]
        if wait > patience_ns:
            offered[i] = 0
            continue
        wait_ns[i] = wait
        taken += service_ns[i]
        done = begin + service_ns[i]
        at = 0
        while True:  # sift the server's new time down to its place
            child = 2 * at + 1
            if child >= servers:
                break
            if child + 1 < servers and free_ns[child + 1] < free_ns[child]:
                child += 1
            if free_ns[child] >= done:
                break
            free_ns[at] = free_ns[child]
            at = child
        free_ns[at] = done
    return taken


@compiled
def serve_bulk(free_ns, start_ns, length_ns, work_ns, patience_ns):
    """Takes on work that belongs to no request, evenly over the servers; gives how much of it, in server nanoseconds.

    It is offered over an interval from `start_ns` on; what the servers couldn't begin within the interval and `patience_ns`
    is refused. `free_ns` as in `serve`: equal amounts keep its order.
    """
    servers = len(free_ns)
    room = servers * (length_ns + patience_ns) - unfinished(free_ns, start_ns)
    each = max(min(work_ns, room), 0) // servers
    if each > 0:
        for j in range(servers):
            free_ns[j] = max(free_ns[j], start_ns) + each
    return each * servers


@compiled
def unfinished(free_ns, now_ns):
    """The work that the servers have taken on and not done yet at `now_ns`, in server nanoseconds.

    A server works without a pause until it is free, so the work done between two instants is exactly
    unfinished(first) + taken on between - unfinished(second).
    """
    total = 0
    for j in range(len(free_ns)):
        if free_ns[j] > now_ns:
            total += free_ns[j] - now_ns
    return total


@compiled
def transmit(  # noqa: PLR0917
    arrive_ns, offered, start_ns, length_ns, burst_bytes, fluid_bytes, bytes_per_ns, buffer_bytes, backlog, wait_ns
):
    """One direction of a link over an interval: line rate, first in first out, drop-tail at `buffer_bytes`.

    Each message still `offered` (uint8[n]) puts `burst_bytes` into the buffer at once when it arrives (int64[n], ascending);
    one that finds too little room is refused whole: its `offered` becomes 0. `fluid_bytes` flow in evenly over the
    interval: what senders pace themselves; what of it overflows is dropped. `backlog`: bytes in the buffer at the start.
    wait_ns: float64[n], what lies before each message, refused or not. Gives the backlog at the end and the bytes dropped;
    sent = offered - dropped - (growth of the backlog).
    """
    net = fluid_bytes / length_ns - bytes_per_ns
    dropped = 0.0
    at = start_ns
    for i in range(len(arrive_ns)):
        backlog += net * (arrive_ns[i] - at)
        at = arrive_ns[i]
        if backlog > buffer_bytes:
            dropped += backlog - buffer_bytes
            backlog = buffer_bytes
        elif backlog < 0.0:
            backlog = 0.0
        wait_ns[i] = backlog / bytes_per_ns
        if offered[i] != 0:
            if burst_bytes > 0.0 and backlog + burst_bytes > buffer_bytes:
                offered[i] = 0
                dropped += burst_bytes
            else:
                backlog += burst_bytes
    backlog += net * (start_ns + length_ns - at)
    if backlog > buffer_bytes:
        dropped += backlog - buffer_bytes
        backlog = buffer_bytes
    return max(backlog, 0.0), dropped
