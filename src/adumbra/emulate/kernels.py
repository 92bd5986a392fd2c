"""Compiled: random numbers from counters, and the pass over the cells (one emulated VM in one interval). No state of its own.

Numba's disk cache looks at this file only: after a change of queueing.py in a checkout, touch this file as well.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from adumbra.emulate.queueing import serve, serve_bulk, transmit, unfinished

SERVICE, ARRIVALS = 0, 1  # what a random number is for: each purpose has a stream of its own
LONGEST_NS = 10**15  # no service is taken to last longer (11.6 days), so that sums stay within 63 bits
INITIAL_WINDOW_BYTES = 14_600.0  # ten segments: what a sender puts on the wire unacknowledged (RFC 6928)

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_53_BITS = np.uint64(11)
_STEP = 2.0**-53


@njit(cache=True, nogil=True)
def philox(c0, c1, c2, c3, key):
    """Philox4x32-10 (Salmon et al., SC'11): four 32-bit words of a counter and a 64-bit key, all uint64; four words."""
    k0, k1 = key & _LOW, key >> _HALF
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@njit(cache=True, nogil=True)
def uniform_pair(key, start_ns, purpose, number):
    """Two uniforms in (0, 1), the same whenever asked again for this VM's key, interval, purpose and number."""
    start = np.uint64(start_ns)
    w0, w1, w2, w3 = philox(np.uint64(number), np.uint64(purpose), start & _LOW, start >> _HALF, key)
    first = np.float64((w0 << _HALF | w1) >> _53_BITS)
    second = np.float64((w2 << _HALF | w3) >> _53_BITS)
    return (first + 0.5) * _STEP, (second + 0.5) * _STEP


@njit(cache=True, nogil=True)
def draw_normals(key, start_ns, normals):
    """Fills `normals` (float64[n]) with standard normals (Box and Muller, 1958) for one VM's services in one interval."""
    for pair in range((len(normals) + 1) // 2):
        u, w = uniform_pair(key, start_ns, SERVICE, pair)
        radius, angle = math.sqrt(-2.0 * math.log(u)), 2.0 * math.pi * w
        normals[2 * pair] = radius * math.cos(angle)
        if 2 * pair + 1 < len(normals):
            normals[2 * pair + 1] = radius * math.sin(angle)


@njit(cache=True, nogil=True)
def draw_arrivals(key, start_ns, length_ns, arrive_ns):
    """Fills `arrive_ns` (int64[n]) with arrivals evenly at random over an interval: Poisson, given their number. Unsorted."""
    for pair in range((len(arrive_ns) + 1) // 2):
        u, w = uniform_pair(key, start_ns, ARRIVALS, pair)
        arrive_ns[2 * pair] = start_ns + np.int64(u * length_ns)
        if 2 * pair + 1 < len(arrive_ns):
            arrive_ns[2 * pair + 1] = start_ns + np.int64(w * length_ns)


@njit(cache=True, nogil=True)
def draw_services(normals, mean_ns, cv, service_ns):
    """Lognormal service times of that mean and coefficient of variation, from standard normals; int64[n], whole ns."""
    variance = math.log1p(cv * cv)
    sigma = math.sqrt(variance)
    for i in range(len(normals)):
        service_ns[i] = np.int64(min(mean_ns * math.exp(sigma * normals[i] - 0.5 * variance) + 0.5, LONGEST_NS))


@njit(cache=True, nogil=True)
def quantile(ordered, level):
    """The quantile of ascending values by linear interpolation (Hyndman and Fan's type 7); NaN of none."""
    if len(ordered) == 0:
        return math.nan
    rank = level * (len(ordered) - 1)
    low = int(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (rank - low)


@njit(cache=True, nogil=True)
def _whole_ns(seconds):
    return np.int64(min(seconds * 1e9 + 0.5, LONGEST_NS))


# Below, `vm`, `held`, `cell` and `out` are records (of the dtypes FLEET, STATE, LOAD and SIMULATED): a record is read and
# written in place, and costs no reference counting, which arrays in tuples do.


@njit(cache=True, nogil=True)
def _load_cpu(vm, free_ns, cell, now_ns, length_ns, times_ns, normals, offered):
    """Puts a cell's work on the VM's servers. Gives the work taken on, in server ns, and the share of it refused."""
    n = len(offered)
    mean_s = cell.work_s / (vm.server_cores * vm.core_speed)
    if n == 0:
        work_ns = _whole_ns(mean_s)
        if work_ns == 0:
            return 0, 0.0
        taken = serve_bulk(free_ns, now_ns, length_ns, work_ns, vm.patience_ns)
        lost = work_ns - taken
        return taken, lost / work_ns if lost >= len(free_ns) else 0.0  # less is rounding
    arrive_ns, service_ns, wait_ns = times_ns[0], times_ns[1], times_ns[2]
    draw_normals(vm.key, now_ns, normals)
    draw_services(normals, mean_s / n * 1e9, vm.service_cv / math.sqrt(cell.stands_for), service_ns)
    before = offered.sum()
    taken = serve(arrive_ns, service_ns, free_ns, vm.patience_ns, offered, wait_ns)
    return taken, 1.0 - offered.sum() / before if before > 0 else 0.0


@njit(cache=True, nogil=True)
def _send(vm, total, now_ns, length_ns, arrive_ns, offered, backlog, wait_ns):
    """A cell's bytes of one direction through the link: each message's first window at once, the rest paced by its sender.

    Gives the backlog at the end, and the share of the bytes that was carried.
    """
    n = len(offered)
    if n == 0 and total == 0.0 and backlog == 0.0:
        return 0.0, 1.0
    burst = min(total / n, INITIAL_WINDOW_BYTES, vm.buffer_bytes) if n > 0 else 0.0
    left = offered.sum() / n if n > 0 else 1.0
    fluid = (total - burst * n) * left
    backlog, dropped = transmit(
        arrive_ns, offered, now_ns, length_ns, burst, fluid, vm.bytes_per_ns, vm.buffer_bytes, backlog, wait_ns
    )
    return backlog, max(left - dropped / total, 0.0) if total > 0.0 else left


@njit(cache=True, nogil=True)
def _write_latencies(vm, cell, times_ns, waits_ns, values, offered, out):
    """Percentiles over the requests that were answered: path, link in, queue, service, link out. NaN of none."""
    n = len(offered)
    wire_ns = (cell.rx_bytes + cell.tx_bytes) / max(n, 1) / vm.bytes_per_ns
    answered = 0
    for j in range(n):
        if offered[j] != 0:
            inside_ns = times_ns[1, j] + times_ns[2, j]
            values[answered] = (vm.rtt_ns + wire_ns + waits_ns[0, j] + waits_ns[1, j] + inside_ns) * 1e-6
            answered += 1
    ordered = values[:answered]
    if answered > 1:
        ordered.sort()
    out.latency_ms_p50 = quantile(ordered, 0.5)
    out.latency_ms_p95 = quantile(ordered, 0.95)
    out.latency_ms_p99 = quantile(ordered, 0.99)


@njit(cache=True, nogil=True)
def _write_round_trips(vm, held, waits_ns, values, out):
    """The path's round trip and what queues on the link: at each request, or at the interval's end where there is none."""
    rtt_ms = vm.rtt_ns * 1e-6
    if len(values) == 0:
        queued_ms = (held.rx_backlog_bytes + held.tx_backlog_bytes) / vm.bytes_per_ns * 1e-6
        out.rtt_ms_p50 = rtt_ms + queued_ms
        out.rtt_ms_p99 = rtt_ms + queued_ms
        return
    for j in range(len(values)):
        values[j] = rtt_ms + (waits_ns[0, j] + waits_ns[1, j]) * 1e-6
    values.sort()
    out.rtt_ms_p50 = quantile(values, 0.5)
    out.rtt_ms_p99 = quantile(values, 0.99)


@njit(cache=True, nogil=True)
def _write_memory(vm, held, cell, elapsed_ns, out):
    """Memory in use: at least what is needed now; what was needed before is given back over the role's release time."""
    needed = vm.memory_base_bytes + vm.memory_connection_bytes * cell.connections_held
    kept = held.memory_bytes - needed
    if kept > 0.0 and vm.release_ns > 0.0:
        needed += kept * math.exp(-elapsed_ns / vm.release_ns)
    held.memory_bytes = needed
    out.memory_bytes = needed


@njit(cache=True, nogil=True)
def _emulate_cell(vm, held, free_ns, cell, now_ns, length_ns, times_ns, waits_ns, normals, offered, out):
    """One emulated VM through one interval: requests in by the link, through the servers, answers out by the link."""
    arrive_ns = times_ns[0]
    held.rx_backlog_bytes, rx_share = _send(
        vm, cell.rx_bytes, now_ns, length_ns, arrive_ns, offered, held.rx_backlog_bytes, waits_ns[0]
    )
    before = unfinished(free_ns, now_ns)
    taken, refused = _load_cpu(vm, free_ns, cell, now_ns, length_ns, times_ns, normals, offered)
    done = before + taken - unfinished(free_ns, now_ns + length_ns)
    served = offered.sum() * cell.stands_for
    # Answers are offered when their requests were seen: their bytes were observed in this interval, so they left in it.
    held.tx_backlog_bytes, tx_share = _send(
        vm, cell.tx_bytes, now_ns, length_ns, arrive_ns, offered, held.tx_backlog_bytes, waits_ns[1]
    )
    rx_share *= 1.0 - refused
    if len(offered) == 0:
        tx_share *= 1.0 - refused
    packets = cell.rx_packets + cell.tx_packets
    carried = cell.rx_packets * rx_share + cell.tx_packets * tx_share
    out.dropped_ratio = min(max(1.0 - carried / packets, 0.0), 1.0) if packets > 0.0 else math.nan
    length_s = length_ns * 1e-9
    out.cpu_seconds = done * 1e-9 * vm.server_cores + vm.idle_cores * length_s
    out.cpu_utilization = min(out.cpu_seconds / (vm.cores * length_s), 1.0)
    held.written_bytes += cell.rx_bytes * rx_share * vm.written_per_byte_in
    out.storage_bytes = vm.storage_base_bytes + held.written_bytes
    out.storage_ops = served * vm.ops_per_request


@njit(cache=True, nogil=True)
def _gather(vm, seen_ns, now_ns, length_ns, arrive_ns):
    """A cell's arrivals, those seen and those drawn, ascending, into `arrive_ns`."""
    seen = len(seen_ns)
    arrive_ns[:seen] = seen_ns
    if len(arrive_ns) > seen:
        draw_arrivals(vm.key, now_ns, length_ns, arrive_ns[seen:])
        arrive_ns.sort()


@njit(cache=True, nogil=True)
def emulate(fleet, state, free_ns, load, clock_ns, start_ns, length_ns, request_ns, next_row, room, out):
    """Carries every emulated VM through the intervals in turn. Dtypes: FLEET, STATE, LOAD, SIMULATED of adumbra.emulate.

    fleet[M], state[M], load[k, M], out[k, M]: records. free_ns int64[servers]: every VM's servers, one after the other.
    clock_ns: the end of the interval before the first, below 0 for none. request_ns int64[n] by (VM, time); next_row
    int64[M]: each VM's first row of these intervals, moved on. room: at least the requests of any cell. Writes state,
    free_ns, next_row and out. A VM's result depends on no other VM, so a caller may split the fleet over threads.
    """
    times_ns = np.empty((3, room), np.int64)  # arrival, service, wait
    waits_ns = np.empty((2, room), np.float64)  # on the link: in, out
    values = np.empty(room, np.float64)
    marks = np.empty(room, np.uint8)
    for v in range(len(fleet)):
        vm, held = fleet[v], state[v]
        servers_ns = free_ns[vm.first_server : vm.first_server + vm.servers]
        before_ns = clock_ns
        for i in range(len(start_ns)):
            now_ns, cell = start_ns[i], load[i, v]
            gap_ns = now_ns - before_ns if before_ns >= 0 else 0
            before_ns = now_ns + length_ns
            sent = gap_ns * vm.bytes_per_ns
            held.rx_backlog_bytes = max(held.rx_backlog_bytes - sent, 0.0)
            held.tx_backlog_bytes = max(held.tx_backlog_bytes - sent, 0.0)
            n, row = cell.seen + cell.drawn, next_row[v]
            next_row[v] = row + cell.seen
            times, waits, offered = times_ns[:, :n], waits_ns[:, :n], marks[:n]
            offered[:] = 1
            _gather(vm, request_ns[row : row + cell.seen], now_ns, length_ns, times[0])
            _emulate_cell(vm, held, servers_ns, cell, now_ns, length_ns, times, waits, values[:n], offered, out[i, v])
            _write_latencies(vm, cell, times, waits, values, offered, out[i, v])
            if cell.one_sided:
                _write_round_trips(vm, held, waits, values[:n], out[i, v])
            else:
                out[i, v].rtt_ms_p50 = math.nan
                out[i, v].rtt_ms_p99 = math.nan
            _write_memory(vm, held, cell, gap_ns + length_ns, out[i, v])
