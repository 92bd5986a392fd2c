"""The queue against Erlang, Lindley, Little and a plain simulation; the link against its books."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.emulate.chance_kernels import draw_services, quantile_table
from adumbra.emulate.queueing import serve, serve_bulk, transmit, unfinished

ENDLESS_NS = 10**15

arrivals_and_services = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 120)), min_size=1, max_size=60)


def queue(arrive_ns, service_ns, servers, patience_ns=ENDLESS_NS, free_ns=None):
    """Waits (-1 for refused), the work taken on, and the servers' times."""
    free_ns = np.zeros(servers, np.int64) if free_ns is None else free_ns
    offered, wait_ns = np.ones(len(arrive_ns), np.uint8), np.full(len(arrive_ns), -1, np.int64)
    taken = serve(np.asarray(arrive_ns, np.int64), np.asarray(service_ns, np.int64), free_ns, patience_ns, offered, wait_ns)
    assert ((wait_ns >= 0) == (offered == 1)).all()
    return wait_ns, taken, free_ns


def from_gaps(rows):
    return np.cumsum([gap for gap, _ in rows]).astype(np.int64), np.array([service for _, service in rows], np.int64)


def erlang_c_wait(arrivals_per_s, service_s, servers):
    """Mean wait in an M/M/k queue (Erlang, 1917)."""
    load = arrivals_per_s * service_s
    waiting = load**servers / math.factorial(servers) * servers / (servers - load)
    share = waiting / (sum(load**i / math.factorial(i) for i in range(servers)) + waiting)
    return share * service_s / (servers - load)


@pytest.mark.parametrize(("servers", "utilisation"), [(1, 0.5), (1, 0.7), (2, 0.7), (4, 0.8), (16, 0.9)])
def test_mean_wait_is_erlangs(servers, utilisation):
    rng = np.random.default_rng(7)
    count, service_s = 8_000_000, 0.001
    rate = utilisation * servers / service_s
    arrive_ns = np.cumsum(rng.exponential(1e9 / rate, count)).astype(np.int64)
    wait_ns, _, _ = queue(arrive_ns, rng.exponential(service_s * 1e9, count), servers)
    assert wait_ns.mean() * 1e-9 == pytest.approx(erlang_c_wait(rate, service_s, servers), rel=0.01)


def test_mean_wait_with_our_lognormal_services_is_pollaczeks_and_khinchines():
    count, mean_s, cv, rate = 2_000_000, 0.001, 1.5, 500.0
    service_ns = np.empty(count, np.int64)
    draw_services(np.uint64(3), 0, 0, mean_s * 1e9, cv, quantile_table(), service_ns)
    arrive_ns = np.cumsum(np.random.default_rng(5).exponential(1e9 / rate, count)).astype(np.int64)
    wait_ns, _, _ = queue(arrive_ns, service_ns, 1)
    want_s = rate * mean_s**2 * (1 + cv**2) / (2 * (1 - rate * mean_s))
    assert wait_ns.mean() * 1e-9 == pytest.approx(want_s, rel=0.03)


def test_littles_law_holds():
    """The mean number that an observer finds waiting is the arrival rate times the mean wait (Little, 1961)."""
    rng = np.random.default_rng(11)
    arrive_ns = np.cumsum(rng.exponential(1e6, 300_000)).astype(np.int64)
    wait_ns, _, _ = queue(arrive_ns, rng.lognormal(14.5, 0.8, 300_000), 4)
    begun_ns = arrive_ns + wait_ns  # ascending, as the first to come is the first served
    looks = rng.integers(arrive_ns[0], arrive_ns[-1], 300_000)
    found = np.searchsorted(arrive_ns, looks, side="right") - np.searchsorted(begun_ns, looks, side="right")
    rate = len(arrive_ns) / (arrive_ns[-1] - arrive_ns[0])
    assert wait_ns.mean() > 0
    assert found.mean() == pytest.approx(rate * wait_ns.mean(), rel=0.02)


@settings(deadline=None)  # the first call may compile
@given(arrivals_and_services)
def test_one_server_follows_lindley(rows):
    """W' = max(0, W + S - A) (Lindley, 1952)."""
    arrive_ns, service_ns = from_gaps(rows)
    wait_ns, _, _ = queue(arrive_ns, service_ns, 1)
    want = 0
    for i in range(len(rows)):
        if i:
            want = max(0, want + service_ns[i - 1] - (arrive_ns[i] - arrive_ns[i - 1]))
        assert wait_ns[i] == want


@settings(deadline=None)  # the first call may compile
@given(arrivals_and_services, st.integers(1, 9), st.integers(0, 200))
def test_many_servers_follow_a_plain_simulation(rows, servers, patience_ns):
    arrive_ns, service_ns = from_gaps(rows)
    wait_ns, taken, free_ns = queue(arrive_ns, service_ns, servers, patience_ns)
    free, want, work = [0] * servers, [], 0
    for at, service in zip(arrive_ns.tolist(), service_ns.tolist(), strict=True):
        free.sort()
        begin = max(at, free[0])
        if begin - at > patience_ns:
            want.append(-1)
            continue
        want.append(begin - at)
        free[0] = begin + service
        work += service
    assert wait_ns.tolist() == want
    assert taken == work
    assert sorted(free_ns.tolist()) == sorted(free)


@settings(deadline=None)  # the first call may compile
@given(arrivals_and_services, st.integers(1, 8))
def test_waits_never_rise_with_more_servers(rows, servers):
    arrive_ns, service_ns = from_gaps(rows)
    fewer, _, _ = queue(arrive_ns, service_ns, servers)
    more, _, _ = queue(arrive_ns, service_ns, servers + 1)
    assert (more <= fewer).all()


@settings(deadline=None)  # the first call may compile
@given(arrivals_and_services, st.integers(1, 5), st.integers(0, 60))
def test_stopping_and_going_on_changes_nothing(rows, servers, cut):
    arrive_ns, service_ns = from_gaps(rows)
    whole, taken, end = queue(arrive_ns, service_ns, servers, 100)
    first, one, free_ns = queue(arrive_ns[:cut], service_ns[:cut], servers, 100)
    second, other, free_ns = queue(arrive_ns[cut:], service_ns[cut:], servers, 100, free_ns)
    assert np.concatenate([first, second]).tolist() == whole.tolist()
    assert one + other == taken
    assert free_ns.tolist() == end.tolist()


@settings(deadline=None)  # the first call may compile
@given(arrivals_and_services, st.integers(1, 5), st.integers(1, 400))
def test_work_done_is_what_the_servers_were_busy(rows, servers, now_ns):
    """unfinished() against the busy times of each request, up to an instant after the last arrival."""
    arrive_ns, service_ns = from_gaps(rows)
    wait_ns, taken, free_ns = queue(arrive_ns, service_ns, servers)
    now_ns += int(arrive_ns[-1])
    begun = arrive_ns + wait_ns
    busy = np.clip(np.minimum(begun + service_ns, now_ns) - begun, 0, None).sum()
    assert taken - unfinished(free_ns, now_ns) == busy


@pytest.mark.parametrize(
    ("free_ns", "work_ns", "taken", "after"),
    [
        ([0, 0], 10, 10, [105, 105]),
        ([0, 120], 10, 10, [105, 125]),
        ([0, 0], 11, 10, [105, 105]),  # what doesn't divide is less than a nanosecond a server
        ([0, 0], 10**9, 2 * (1000 + 50), [1150, 1150]),  # an interval's worth, and the patience; the rest is refused
        ([2000, 2000], 10, 0, [2000, 2000]),
        ([0, 0], 0, 0, [0, 0]),
    ],
)
def test_bulk_work_goes_evenly_over_the_servers(free_ns, work_ns, taken, after):
    servers = np.array(free_ns, np.int64)
    assert serve_bulk(servers, 100, 1000, work_ns, 50) == taken
    assert servers.tolist() == after


def link(arrive_ns, burst, fluid=0.0, backlog=0.0, rate=2.0, buffer=1000.0, length_ns=1000):
    offered, wait_ns = np.ones(len(arrive_ns), np.uint8), np.full(len(arrive_ns), np.nan)
    arrive_ns = np.asarray(arrive_ns, np.int64)
    backlog, dropped = transmit(arrive_ns, offered, 0, length_ns, burst, fluid, rate, buffer, backlog, wait_ns)
    return wait_ns.tolist(), offered.tolist(), backlog, dropped


@pytest.mark.parametrize(
    ("given_", "want"),
    [
        ({"arrive_ns": [10], "burst": 100.0}, ([0.0], [1], 0.0, 0.0)),
        ({"arrive_ns": [10, 10], "burst": 100.0}, ([0.0, 50.0], [1, 1], 0.0, 0.0)),
        ({"arrive_ns": [10, 30], "burst": 100.0}, ([0.0, 30.0], [1, 1], 0.0, 0.0)),
        ({"arrive_ns": [10, 10, 10], "burst": 400.0}, ([0.0, 200.0, 400.0], [1, 1, 0], 0.0, 400.0)),  # the third finds it full
        ({"arrive_ns": [999], "burst": 100.0}, ([0.0], [1], 98.0, 0.0)),  # the rest is carried on
        ({"arrive_ns": [0], "burst": 0.0, "backlog": 500.0}, ([250.0], [1], 0.0, 0.0)),
        ({"arrive_ns": [], "burst": 0.0, "fluid": 1500.0}, ([], [], 0.0, 0.0)),
        ({"arrive_ns": [], "burst": 0.0, "fluid": 2500.0}, ([], [], 500.0, 0.0)),
        ({"arrive_ns": [], "burst": 0.0, "fluid": 5000.0}, ([], [], 1000.0, 2000.0)),
        ({"arrive_ns": [500], "burst": 10.0, "fluid": 4000.0}, ([500.0], [0], 1000.0, 1010.0)),
        ({"arrive_ns": [], "burst": 0.0}, ([], [], 0.0, 0.0)),
    ],
)
def test_link(given_, want):
    assert link(**given_) == want


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(0, 999), max_size=30).map(sorted),
    st.floats(0, 2000),
    st.floats(0, 10_000),
    st.floats(0, 1),
    st.floats(0.001, 20),
)
def test_the_links_books_balance(arrive_ns, burst, fluid, full, rate):
    buffer = 1000.0
    wait_ns, offered, backlog, dropped = link(arrive_ns, burst, fluid, full * buffer, rate, buffer)
    asked = burst * len(arrive_ns) + fluid
    sent = asked - dropped - (backlog - full * buffer)
    slack = 1e-9 * (asked + buffer)
    assert 0 <= backlog <= buffer
    assert burst * offered.count(0) <= dropped + slack
    assert dropped <= asked + slack
    assert -slack <= sent <= rate * 1000 + slack
    assert all(0 <= wait <= buffer / rate * (1 + 1e-12) for wait in wait_ns)


@settings(deadline=None)  # the first call may compile
@given(st.floats(0, 10_000), st.floats(0, 1000))
def test_a_flow_may_be_cut_in_two(fluid, backlog):
    _, _, whole, dropped = link([], 0.0, fluid, backlog)
    _, _, half, first = link([], 0.0, fluid / 2, backlog, length_ns=500)
    _, _, end, second = link([], 0.0, fluid / 2, half, length_ns=500)
    assert end == pytest.approx(whole, abs=1e-6)
    assert first + second == pytest.approx(dropped, abs=1e-6)
