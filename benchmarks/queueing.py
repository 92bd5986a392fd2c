"""The emulator's queue beside Ciw on the same M/M/k in one run, one thread: requests a second, and mean waits beside Erlang's.

Usage: python benchmarks/queueing.py [--requests N] [--peer-requests N]. Needs ciw (pip); without it, ours alone. The
queue is emulate/queueing.serve, which takes arrivals and services that are drawn already; what drawing them costs, by NumPy
or as the emulator draws its services, is told beside it. Ciw draws its own, so the ratio is of both with drawing. Best of
three runs (ours: of pieces of 2 million).
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import numpy as np

from adumbra.emulate.chance_kernels import draw_services, quantile_table
from adumbra.emulate.queueing import serve
from adumbra.emulate.sharing_kernels import share

REPEATS = 3
SERVERS = (1, 2, 4, 8, 16)
UTILISATION, SERVICE_S = 0.8, 0.001
RATE_AIM, RATIO_AIM, WAIT_AIM = 20e6, 500.0, 0.01
AT_ONCE = 2_000_000
PATIENCE_NS = 10**15


@dataclass
class Ours:
    """Requests a second: the queue alone, with NumPy's arrivals and services, with our lognormal services; and the wait."""

    queue: float
    drawn: float
    lognormal: float
    wait_s: float


def erlang_c_wait(arrivals_per_s: float, service_s: float, servers: int) -> float:
    """Mean wait in an M/M/k queue (Erlang, 1917), in seconds."""
    load = arrivals_per_s * service_s
    waiting = load**servers / math.factorial(servers) * servers / (servers - load)
    share_waiting = waiting / (sum(load**i / math.factorial(i) for i in range(servers)) + waiting)
    return share_waiting * service_s / (servers - load)


def ours(servers: int, requests: int) -> Ours:
    """Some millions at a time, the servers' state carried on between them."""
    rng, mean_gap_ns, table = np.random.default_rng(servers), SERVICE_S * 1e9 / (UTILISATION * servers), quantile_table()
    free_ns, wait_ns = np.zeros(servers, np.int64), np.empty(AT_ONCE, np.int64)
    offered, service_ns = np.ones(AT_ONCE, np.uint8), np.empty(AT_ONCE, np.int64)
    last_ns, waited, done = 0, 0.0, 0
    best = {"queue": math.inf, "drawing": math.inf, "lognormal": math.inf}
    serve(np.zeros(1, np.int64), service_ns[:1], np.zeros(servers, np.int64), PATIENCE_NS, offered[:1], wait_ns[:1])
    draw_services(np.uint64(1), 0, 0, 1e6, 1.0, table, service_ns[:8])
    while done < requests:
        began = time.perf_counter()
        arrive_ns = last_ns + np.cumsum(rng.standard_exponential(AT_ONCE) * mean_gap_ns).astype(np.int64)
        service_ns[:] = rng.standard_exponential(AT_ONCE) * (SERVICE_S * 1e9)
        drawn = time.perf_counter()
        serve(arrive_ns, service_ns, free_ns, PATIENCE_NS, offered, wait_ns)
        served = time.perf_counter()
        last_ns, waited, done = int(arrive_ns[-1]), waited + float(wait_ns.sum()), done + AT_ONCE
        draw_services(np.uint64(1), done, 0, 1e6, 1.0, table, service_ns)
        times = {"drawing": drawn - began, "queue": served - drawn, "lognormal": time.perf_counter() - served}
        best = {name: min(best[name], took) for name, took in times.items()}
    queue_s, with_draws_s, lognormal_s = best["queue"], best["queue"] + best["drawing"], best["queue"] + best["lognormal"]
    return Ours(AT_ONCE / queue_s, AT_ONCE / with_draws_s, AT_ONCE / lognormal_s, waited / done * 1e-9)


def ciw_rate(servers: int, requests: int) -> tuple[float, float] | None:
    """Ciw's requests a second and mean wait in seconds; None where it isn't installed."""
    try:
        import ciw
    except ImportError:
        return None
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(rate=UTILISATION * servers / SERVICE_S)],
        service_distributions=[ciw.dists.Exponential(rate=1.0 / SERVICE_S)],
        number_of_servers=[servers],
    )
    best, wait_s = 0.0, math.nan
    for seed in range(REPEATS):
        ciw.seed(seed)
        simulation = ciw.Simulation(network)
        began = time.perf_counter()
        simulation.simulate_until_max_customers(requests, method="Finish")
        took_s = time.perf_counter() - began
        records = simulation.get_all_records()
        best, wait_s = max(best, len(records) / took_s), float(np.mean([each.waiting_time for each in records]))
    return best, wait_s


def sharing() -> None:
    """Cores that are shared: M/M/1-PS, beside 1 / (mu - lambda)."""
    from adumbra.emulate.layout import JOB, RUN

    rng, jobs, late_ns = np.random.default_rng(1), np.zeros(256, JOB), np.empty(256)
    took_s = math.inf
    for _ in range(REPEATS):
        run = np.zeros(1, RUN)[0]
        arrive_ns = np.cumsum(rng.standard_exponential(AT_ONCE) * (SERVICE_S * 1e9 / UTILISATION)).astype(np.int64)
        service_ns = (rng.standard_exponential(AT_ONCE) * (SERVICE_S * 1e9)).astype(np.int64)
        offered, inside_ns = np.ones(AT_ONCE, np.uint8), np.empty(AT_ONCE, np.int64)
        share(arrive_ns[:1], service_ns[:1], offered[:1], np.zeros(1, RUN)[0], jobs, 1, PATIENCE_NS, inside_ns, late_ns)
        began = time.perf_counter()
        share(arrive_ns, service_ns, offered, run, jobs, 1, 2**62, inside_ns, late_ns)
        took_s = min(took_s, time.perf_counter() - began)
    want_s = SERVICE_S / (1.0 - UTILISATION)
    stay_s = float(inside_ns[offered == 1].mean()) * 1e-9
    print(f"shared cores, M/M/1-PS: {AT_ONCE / took_s / 1e6:.1f} M requests/s; mean stay {stay_s / want_s - 1:+.2%} off theory")


def verdict(met: bool) -> str:
    return "met" if met else "NOT met"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--requests", type=int, default=40_000_000, help="for each number of servers")
    arguments.add_argument("--peer-requests", type=int, default=20_000)
    given = arguments.parse_args()
    print(f"M/M/k at {UTILISATION:.0%} utilisation, {given.requests:,} requests each (Ciw {given.peer_requests:,}), one thread")
    print(
        f"{'k':>3} {'queue M/s':>10} {'+ draws':>9} {'+ lognormal':>12} {'Ciw k/s':>9} {'ratio':>8} {'wait off Erlang-C':>18}"
    )
    slowest, least, widest = math.inf, math.inf, 0.0
    for servers in SERVERS:
        own, peer = ours(servers, given.requests), ciw_rate(servers, given.peer_requests)
        off = own.wait_s / erlang_c_wait(UTILISATION * servers / SERVICE_S, SERVICE_S, servers) - 1.0
        slowest, widest = min(slowest, own.queue), max(widest, abs(off))
        told = f"{'-':>9} {'-':>8}"
        if peer is not None:
            least = min(least, own.drawn / peer[0])
            told = f"{peer[0] / 1e3:9.1f} {own.drawn / peer[0]:8,.0f}"
        print(
            f"{servers:3} {own.queue / 1e6:10.1f} {own.drawn / 1e6:9.1f} {own.lognormal / 1e6:12.1f} {told} {off:+18.2%}",
            flush=True,
        )
    print(f"slowest queue {slowest / 1e6:.1f} M requests/s (aim {RATE_AIM / 1e6:g}: {verdict(slowest >= RATE_AIM)})")
    if least < math.inf:
        print(f"least ratio to Ciw, drawing included: {least:,.0f} (aim {RATIO_AIM:g}: {verdict(least >= RATIO_AIM)})")
    else:
        print("Ciw isn't installed: pip install ciw")
    print(f"mean wait at most {widest:.2%} off Erlang-C (aim {WAIT_AIM:.0%}: {verdict(widest <= WAIT_AIM)})")
    sharing()


if __name__ == "__main__":
    main()
