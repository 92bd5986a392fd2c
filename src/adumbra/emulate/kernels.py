"""Compiled: the pass over the cells, one emulated VM in one interval, with each of its sets of parameters. Keeps no state."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs

from __future__ import annotations

import math

import numpy as np

from adumbra.emulate.chance_kernels import (
    LONGEST_NS,
    draw_arrivals,
    draw_clusters,
    draw_normals,
    draw_services,
    quantiles,
    sort,
)
from adumbra.emulate.compiled import compiled, inlined
from adumbra.emulate.layout import (
    BUCKETS,
    CPU_SECONDS,
    CPU_UTILIZATION,
    DROPPED_RATIO,
    HIGH,
    HISTOGRAM,
    LOW,
    MEMORY_BYTES,
    P50,
    P95,
    P99,
    RTT_P50,
    RTT_P99,
    STORAGE_BYTES,
    STORAGE_OPS,
)
from adumbra.emulate.link_kernels import INITIAL_WINDOW_BYTES, carry, delay, rest
from adumbra.emulate.memory_kernels import cached, forgotten, keep_open, remember
from adumbra.emulate.queueing import serve, serve_bulk, unfinished
from adumbra.emulate.sharing_kernels import complete, left_over, share, share_bulk
from adumbra.schema.metrics import BUCKETS_MS

__all__ = ["INITIAL_WINDOW_BYTES", "LONGEST_NS", "draw_arrivals", "draw_normals", "emulate"]

# Below, `vm`, `held`, `run`, `cell` and `figures` are records (of layout.FLEET, STATE, RUN, LOAD, PARAMETERS): a record is read
# and written in place, and costs no reference counting. `row` is float64[9], by layout.SIMULATED_BY_SET.


@inlined
def _whole_ns(seconds):
    return np.int64(min(seconds * 1e9 + 0.5, LONGEST_NS))


@inlined
def _count(marks):
    count = 0
    for j in range(len(marks)):
        count += marks[j]
    return count


@compiled
def _work_s(cell, figures):
    """Seconds on a reference core that a cell's traffic takes."""
    return (
        figures.connection_s * cell.connections
        + figures.request_s * cell.requests
        + figures.byte_in_s * cell.rx_bytes
        + figures.byte_out_s * cell.tx_bytes
        + figures.packet_s * (cell.rx_packets + cell.tx_packets)
        + figures.wake_s * cell.wakes
    )


@compiled
def _queue(vm, figures, free_ns, cell, which, now_ns, length_ns, times_ns, offered, table):
    """A cell's work on servers that take one request each. Gives what they did of it in the interval, in server ns, and the
    share refused. times_ns: arrivals, services, and each request's time here, which is written.
    """
    before, n = unfinished(free_ns, now_ns), len(offered)
    mean_s = _work_s(cell, figures) / (figures.server_cores * vm.core_speed)
    refused, taken = 0.0, 0
    if n == 0:
        work_ns = _whole_ns(mean_s)
        if work_ns > 0:
            taken = serve_bulk(free_ns, now_ns, length_ns, work_ns, vm.patience_ns)
            lost = work_ns - taken
            refused = lost / work_ns if lost >= len(free_ns) else 0.0  # less is rounding
    else:
        cv, left = vm.service_cv / math.sqrt(cell.stands_for), _count(offered)
        draw_services(vm.key, now_ns, which, mean_s / n * 1e9, cv, table, times_ns[1])
        taken = serve(times_ns[0], times_ns[1], free_ns, vm.patience_ns, offered, times_ns[2])
        refused = 1.0 - _count(offered) / left if left > 0 else 0.0
        for j in range(n):
            times_ns[2, j] += times_ns[1, j]
    return before + taken - unfinished(free_ns, now_ns + length_ns), refused


@compiled
def _share(vm, figures, run, jobs, cell, which, now_ns, length_ns, times_ns, offered, late_ns, table):
    """A cell's work on cores that all requests share; as `_queue`, and how many late ones (sharing_kernels.complete)."""
    complete(run, jobs, vm.servers, now_ns, times_ns[2], late_ns, 0)  # those done while nothing watched are told nowhere
    before, n, late = left_over(run, jobs, vm.servers, now_ns), len(offered), 0
    mean_s = _work_s(cell, figures) / (figures.server_cores * vm.core_speed)
    refused, taken, end_ns = 0.0, 0, now_ns + length_ns
    if n == 0:
        work_ns = _whole_ns(mean_s)
        if work_ns > 0:
            taken = share_bulk(run, jobs, vm.servers, now_ns, length_ns, work_ns, vm.patience_ns)
            lost = work_ns - taken
            refused = lost / work_ns if lost >= vm.servers else 0.0
        late = complete(run, jobs, vm.servers, end_ns, times_ns[2], late_ns, 0)
    else:
        cv, left = vm.service_cv / math.sqrt(cell.stands_for), _count(offered)
        draw_services(vm.key, now_ns, which, mean_s / n * 1e9, cv, table, times_ns[1])
        taken, late = share(times_ns[0], times_ns[1], offered, run, jobs, vm.servers, end_ns, times_ns[2], late_ns)
        refused = 1.0 - _count(offered) / left if left > 0 else 0.0
    return max(before + taken - left_over(run, jobs, vm.servers, end_ns), 0.0), refused, late


@compiled
def _send(vm, total, now_ns, length_ns, arrive_ns, offered, backlog, credit, wait_ns):
    """A cell's bytes of one direction through the link: each message's first window at once, the rest paced by its sender.

    Gives the backlog and the credit at the end, and the share of the bytes that was carried.
    """
    n = len(offered)
    if n == 0 and total == 0.0 and backlog == 0.0 and vm.peak_bytes_per_ns == vm.base_bytes_per_ns:
        return 0.0, credit, 1.0
    burst = min(total / n, INITIAL_WINDOW_BYTES, vm.buffer_bytes) if n > 0 else 0.0
    left = _count(offered) / n if n > 0 else 1.0
    fluid = (total - burst * n) * left
    backlog, credit, dropped = carry(vm, arrive_ns, offered, now_ns, length_ns, burst, fluid, backlog, credit, wait_ns)
    return backlog, credit, max(left - dropped / total, 0.0) if total > 0.0 else left


@compiled
def _write_latencies(times_ns, rest_ns, late_ns, offered, values, row):
    """Percentiles over the requests that were answered: path, link in, cores, link out. NaN of none. Gives how many there are,
    their latencies in `values`.
    """
    answered = 0
    for j in range(len(offered)):
        if offered[j] != 0 and times_ns[2, j] >= 0:
            values[answered] = (rest_ns[j] + times_ns[2, j]) * 1e-6
            answered += 1
    for j in range(len(late_ns)):
        values[answered] = late_ns[j] * 1e-6
        answered += 1
    row[P50], row[P95], row[P99] = quantiles(values[:answered], 0.5, 0.95, 0.99)
    return answered


@compiled
def _write_histogram(latencies_ms, stands_for, row):
    """How many requests were answered within each bound, each latency standing for some, and the sum of all."""
    row[HISTOGRAM : HISTOGRAM + BUCKETS + 1] = 0.0
    for latency_ms in latencies_ms:
        bucket = 0
        while latency_ms > BUCKETS_MS[bucket]:
            bucket += 1
        row[HISTOGRAM + bucket] += stands_for
        row[HISTOGRAM + BUCKETS] += latency_ms * stands_for
    for bucket in range(1, BUCKETS):
        row[HISTOGRAM + bucket] += row[HISTOGRAM + bucket - 1]


@compiled
def _write_round_trips(vm, held, run, waits_ns, values, row):
    """The path's round trip and what queues on the link: at each request, or at the interval's end where there is none."""
    rtt_ms, peak, base = vm.rtt_ns * 1e-6, vm.peak_bytes_per_ns, vm.base_bytes_per_ns
    if len(values) == 0:
        queued_ns = delay(held.rx_backlog_bytes, held.rx_credit_bytes, peak, base)
        queued_ns += delay(run.tx_backlog_bytes, run.tx_credit_bytes, peak, base)
        row[RTT_P50] = row[RTT_P99] = rtt_ms + queued_ns * 1e-6
        return
    for j in range(len(values)):
        values[j] = rtt_ms + (waits_ns[0, j] + waits_ns[1, j]) * 1e-6
    row[RTT_P50], row[RTT_P99], _ = quantiles(values, 0.5, 0.99, 0.99)


@compiled
def _write_rest(vm, figures, run, cell, done_ns, served, shares, holding, elapsed_ns, length_ns, row):
    """CPU, memory, storage and loss of a cell. served: requests; shares: of the bytes in and out that were carried; holding:
    connections whose memory is in use, clients that are remembered.
    """
    packets = cell.rx_packets + cell.tx_packets
    carried = cell.rx_packets * shares[0] + cell.tx_packets * shares[1]
    row[DROPPED_RATIO] = min(max(1.0 - carried / packets, 0.0), 1.0) if packets > 0.0 else math.nan
    length_s = length_ns * 1e-9
    row[CPU_SECONDS] = done_ns * 1e-9 * figures.server_cores + figures.idle_cores * length_s
    row[CPU_UTILIZATION] = min(row[CPU_SECONDS] / (vm.cores * length_s), 1.0)
    run.requests += served
    row[MEMORY_BYTES] = (
        figures.memory_base_bytes
        + figures.memory_connection_bytes * holding[0]
        + figures.memory_session_bytes * holding[1]
        + cached(run.requests, figures.memory_cache_request_bytes, figures.memory_cache_bytes)
    )
    run.written_bytes *= forgotten(elapsed_ns, vm.retention_ns)
    run.written_bytes += cell.rx_bytes * shares[0] * figures.storage_written_per_byte_in
    run.written_bytes += served * figures.storage_written_per_request
    row[STORAGE_BYTES] = figures.storage_base_bytes + run.written_bytes
    row[STORAGE_OPS] = served * figures.storage_ops_per_request


@compiled
def _gather(vm, cell, seen_ns, now_ns, length_ns, arrive_ns, stack):
    """A cell's arrivals, those seen and those drawn, ascending, into `arrive_ns`; `stack` to work in."""
    seen = len(seen_ns)
    for j in range(seen):
        arrive_ns[j] = seen_ns[j]
    if len(arrive_ns) > seen:
        size = vm.cluster_size / cell.stands_for
        if size > 1.0:
            draw_clusters(vm.key, now_ns, length_ns, size, vm.cluster_spread_ns, arrive_ns[seen:])
        else:
            draw_arrivals(vm.key, now_ns, length_ns, arrive_ns[seen:])
        sort(arrive_ns, stack)


@compiled
def _write_bounds(rows, values, row):
    """The 10th and 90th percentile over the sets of each column; wide enough to hold the central value, NaN where that is."""
    for c in range(rows.shape[1]):
        central, known = rows[0, c], 0
        row[LOW + c] = row[HIGH + c] = math.nan
        if math.isnan(central) or len(rows) == 1:
            continue
        least, most = math.inf, -math.inf
        for s in range(1, len(rows)):
            value = rows[s, c]
            if not math.isnan(value):
                values[known] = value
                known += 1
                least, most = min(least, value), max(most, value)
        if least < most:
            least, most, _ = quantiles(values[:known], 0.1, 0.9, 0.9)
        row[LOW + c], row[HIGH + c] = min(least, central), max(most, central)


@compiled
def _rest_of_latency(vm, cell, waits_ns, out_ns, credits, rest_ns):
    """What path and link add to each request's time at the cores: the round trip, its own bytes, the queues on the link."""
    n, peak, base = len(rest_ns), vm.peak_bytes_per_ns, vm.base_bytes_per_ns
    if n == 0:
        return
    fixed_ns = vm.rtt_ns + delay(cell.rx_bytes / n, credits[0], peak, base) + delay(cell.tx_bytes / n, credits[1], peak, base)
    for j in range(n):
        rest_ns[j] = fixed_ns + waits_ns[j] + out_ns[j]


@inlined
def _hand_over(run, jobs, rest_ns, offered):
    """Requests that are still here at an interval's end take along what path and link add; without an answer, nothing."""
    for j in range(run.jobs):
        number = jobs[j].number
        if number >= 0:
            jobs[j].rest_ns = rest_ns[number] if offered[number] != 0 else math.nan
            jobs[j].number = -1


@compiled
def _cell(
    vm, held, runs, figures, free_ns, jobs, cell, now_ns, length_ns, gap_ns, times_ns, waits_ns, rest_ns, late_ns, values,
    marks, table, rows, row
):  # fmt: skip
    """One emulated VM through one interval: requests in by the link, through its cores, answers out by the link; each set."""
    arrive_ns, n = times_ns[0], times_ns.shape[1]
    sets, coming, offered = len(runs), marks[0], marks[1]
    coming[:] = 1
    backlog, credit_in = rest(vm, gap_ns, held.rx_backlog_bytes, held.rx_credit_bytes)
    held.rx_backlog_bytes, held.rx_credit_bytes, rx_carried = _send(
        vm, cell.rx_bytes, now_ns, length_ns, arrive_ns, coming, backlog, credit_in, waits_ns[0]
    )
    came = _count(coming)
    elapsed_ns = gap_ns + length_ns
    kept_open = keep_open(held, cell.connections_held, elapsed_ns, vm.release_ns)
    holding = (kept_open, remember(held, cell.peers, elapsed_ns, vm.session_ns))
    first_out, first_after, alike = (0.0, 0.0), (0.0, 0.0, 0.0), False  # the central set's link out, before and after
    for s in range(sets):
        run, late = runs[s], 0
        for j in range(n):
            offered[j] = coming[j]
        if vm.jobs > 0:
            places = jobs[s::sets]
            done_ns, refused, late = _share(
                vm, figures[s], run, places, cell, s, now_ns, length_ns, times_ns, offered, late_ns, table
            )
        else:
            servers_ns = free_ns[s * vm.servers : (s + 1) * vm.servers]
            done, refused = _queue(vm, figures[s], servers_ns, cell, s, now_ns, length_ns, times_ns, offered, table)
            done_ns = float(done)
        left = _count(offered)
        # Answers are offered when their requests were seen: their bytes were observed in this interval, so they left in it.
        out = rest(vm, gap_ns, run.tx_backlog_bytes, run.tx_credit_bytes)
        if alike and left == came and out == first_out:  # just as in the central set
            after, at = first_after, 0
        else:
            at = min(s, 1)
            after = _send(vm, cell.tx_bytes, now_ns, length_ns, arrive_ns, offered, out[0], out[1], waits_ns[1 + at])
            _rest_of_latency(vm, cell, waits_ns[0], waits_ns[1 + at], (credit_in, out[1]), rest_ns[at])
        if s == 0:
            first_out, first_after, alike = out, after, left == came and _count(offered) == came
        run.tx_backlog_bytes, run.tx_credit_bytes, tx_carried = after
        shares = (rx_carried * (1.0 - refused), tx_carried * (1.0 - refused) if n == 0 else tx_carried)
        _write_rest(vm, figures[s], run, cell, done_ns, left * cell.stands_for, shares, holding, elapsed_ns, length_ns, rows[s])
        answered = _write_latencies(times_ns, rest_ns[at], late_ns[:late], offered, values, rows[s])
        if s == 0:
            _write_histogram(values[:answered], cell.stands_for, row)
        if vm.jobs > 0:
            _hand_over(run, places, rest_ns[at], offered)
    for c in range(rows.shape[1]):
        row[c] = rows[0, c]
    _write_bounds(rows, values, row)
    if cell.one_sided:
        _write_round_trips(vm, held, runs[0], waits_ns, values[:n], row)
    else:
        row[RTT_P50] = row[RTT_P99] = math.nan


@compiled
def emulate(
    fleet, figures, state, runs, free_ns, jobs, load, clock_ns, start_ns, length_ns, request_ns, next_row,
    table, times_ns, floats, marks, rows, out
):  # fmt: skip
    """Carries every emulated VM through the intervals in turn. Dtypes: see layout.

    fleet[M], state[M], figures[M, 1 + S], runs[M, 1 + S], load[k, M]: records. free_ns int64, jobs: every VM's servers or jobs,
    one VM after the other. clock_ns: the end of the interval before the first, below 0 for none. request_ns int64[n] by (VM,
    time); next_row int64[M]: each VM's first row of these intervals, moved on. table: quantile_table(). To work in: times_ns
    int64[3, n], floats float64[7, n], marks uint8[2, n], n at least the requests of any cell, the jobs of any VM and both, and
    the sets; rows float64[1 + S, 9]. Writes out float64[k, M, layout.WIDTH]. A VM's result depends on no other VM, so a caller
    may split the fleet over threads.
    """
    sets = runs.shape[1]
    for v in range(len(fleet)):
        vm, held = fleet[v], state[v]
        servers_ns = free_ns[vm.first_server : vm.first_server + (0 if vm.jobs > 0 else vm.servers * sets)]
        places = jobs[vm.first_job : vm.first_job + vm.jobs * sets]
        before_ns = clock_ns
        for i in range(len(start_ns)):
            now_ns, cell = start_ns[i], load[i, v]
            gap_ns = now_ns - before_ns if before_ns >= 0 else 0
            before_ns = now_ns + length_ns
            n, row = cell.seen + cell.drawn, next_row[v]
            next_row[v] = row + cell.seen
            _gather(vm, cell, request_ns[row : row + cell.seen], now_ns, length_ns, times_ns[0, :n], times_ns[1])
            _cell(
                vm, held, runs[v], figures[v], servers_ns, places, cell, now_ns, length_ns, gap_ns, times_ns[:, :n],
                floats[0:3, :n], floats[3:5, :n], floats[5], floats[6], marks[:, :n], table, rows,
                out[i, v],
            )  # fmt: skip
