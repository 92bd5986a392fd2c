"""Compiled: a VM's whole traffic drawn once, and carried through one machine after another. No state of its own, no clock."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import math

import numpy as np

from adumbra.emulate.chance_kernels import LONGEST_NS, draw_arrivals, draw_clusters, draw_services, sort
from adumbra.emulate.compiled import compiled
from adumbra.emulate.link_kernels import INITIAL_WINDOW_BYTES, carry, rest
from adumbra.emulate.queueing import serve
from adumbra.emulate.sharing_kernels import share

# `vm` is a record of layout.FLEET: of the machine that is tried.


@compiled
def draw(vm, start_ns, length_ns, first, load, table, stack, arrive_ns, service_ns):
    """Arrivals, and services on a reference core, of every interval: its requests from first[i] up to first[i + 1].

    start_ns int64[k]; first int64[k + 1]; load LOAD[k]; table, stack: as the draws of chance_kernels take them. Writes
    arrive_ns and service_ns, int64[n], arrivals ascending.
    """
    for i in range(len(start_ns)):
        n = first[i + 1] - first[i]
        if n == 0:
            continue
        times, cell = arrive_ns[first[i] : first[i + 1]], load[i]
        size = vm.cluster_size / cell.stands_for
        if size > 1.0:
            draw_clusters(vm.key, start_ns[i], length_ns, size, vm.cluster_spread_ns, times)
        else:
            draw_arrivals(vm.key, start_ns[i], length_ns, times)
        sort(times, stack)
        cv = vm.service_cv / math.sqrt(cell.stands_for)
        draw_services(vm.key, start_ns[i], 0, cell.work_s / n * 1e9, cv, table, service_ns[first[i] : first[i + 1]])


@compiled
def queue(vm, reference_ns, speed, free_ns, arrive_ns, offered, service_ns, inside_ns):
    """Requests that wait for a free server. Gives how many of them had to, or were refused.

    reference_ns int64[n]; speed: of a server, in reference cores; free_ns int64[servers], zeros. Writes offered, uint8[n]: 0
    where one was refused, service_ns, and inside_ns: each one's time here.
    """
    _scale(reference_ns, speed, offered, service_ns)
    serve(arrive_ns, service_ns, free_ns, vm.patience_ns, offered, inside_ns)
    waited = 0
    for j in range(len(arrive_ns)):
        waited += offered[j] == 0 or inside_ns[j] > 0
        inside_ns[j] += service_ns[j]
    return waited


@compiled
def shared(vm, reference_ns, speed, run, jobs, arrive_ns, offered, service_ns, inside_ns, late_ns):
    """Requests that share the cores, as `queue`; one still there an hour after the last came counts as refused."""
    _scale(reference_ns, speed, offered, service_ns)
    if len(arrive_ns) > 0:
        until_ns = arrive_ns[len(arrive_ns) - 1] + np.int64(3_600_000_000_000)
        share(arrive_ns, service_ns, offered, run, jobs, vm.servers, until_ns, inside_ns, late_ns)
    slowed = 0
    for j in range(len(arrive_ns)):
        if inside_ns[j] < 0:
            offered[j] = 0
        slowed += offered[j] == 0 or inside_ns[j] > service_ns[j] + 1
    return slowed


@compiled
def _scale(reference_ns, speed, offered, service_ns):
    for j in range(len(reference_ns)):
        offered[j] = 1
        service_ns[j] = np.int64(min(reference_ns[j] / speed + 0.5, LONGEST_NS))


@compiled
def link(vm, start_ns, length_ns, first, total_bytes, arrive_ns, offered, wait_ns):
    """One direction of a link over all intervals: a message's first window at once, the rest paced by its sender.

    total_bytes float64[k]; offered uint8[n], cleared where a message finds no room; writes wait_ns float64[n]. Gives the
    bytes dropped.
    """
    backlog, credit, dropped = 0.0, vm.credit_bytes, 0.0
    for i in range(len(start_ns)):
        if i > 0:
            backlog, credit = rest(vm, start_ns[i] - start_ns[i - 1] - length_ns, backlog, credit)
        times, marks = arrive_ns[first[i] : first[i + 1]], offered[first[i] : first[i + 1]]
        n = len(times)
        burst = min(total_bytes[i] / n, INITIAL_WINDOW_BYTES, vm.buffer_bytes) if n > 0 else 0.0
        fluid = total_bytes[i] - burst * n
        waits = wait_ns[first[i] : first[i + 1]]
        backlog, credit, lost = carry(vm, times, marks, start_ns[i], length_ns, burst, fluid, backlog, credit, waits)
        dropped += lost
    return dropped


@compiled
def add_up(vm, first, wire_bytes, inside_ns, link_ns, offered, latency_ms):
    """Latencies of the requests that were answered, in ms, at the front of `latency_ms`; gives how many.

    wire_bytes float64[k]: a request's own bytes, both ways, in each interval; inside_ns int64[n]; link_ns float64[2, n].
    """
    answered = 0
    for i in range(len(first) - 1):
        fixed_ns = vm.rtt_ns + wire_bytes[i] / vm.peak_bytes_per_ns
        for j in range(first[i], first[i + 1]):
            if offered[j] != 0:
                latency_ms[answered] = (fixed_ns + inside_ns[j] + link_ns[0, j] + link_ns[1, j]) * 1e-6
                answered += 1
    return answered
