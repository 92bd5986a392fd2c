"""Cores that are shared: against M/G/1-PS, a plain simulation, and the same work done first come, first served."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.emulate.layout import JOB, RUN
from adumbra.emulate.queueing import serve, unfinished
from adumbra.emulate.sharing_kernels import complete, left_over, share, share_bulk

LATE = 10**17
rows = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 120)), min_size=1, max_size=40)


class Cores:
    """Shared cores and what is on them."""

    def __init__(self, servers, places=256):
        self.servers = servers
        self.run = np.zeros(1, RUN)[0]
        self.jobs = np.zeros(places, JOB)
        self.late_ns = np.empty(places)

    def take(self, arrive_ns, service_ns, until_ns=LATE):
        """Each one's time here (-1: not yet done), who was refused, and the late ones' times."""
        n = len(arrive_ns)
        offered, inside_ns = np.ones(n, np.uint8), np.empty(n, np.int64)
        _, late = share(
            np.asarray(arrive_ns, np.int64), np.asarray(service_ns, np.int64), offered, self.run, self.jobs, self.servers,
            until_ns, inside_ns, self.late_ns,
        )  # fmt: skip
        self.jobs["number"][: self.run["jobs"]] = -1  # what the emulator does at an interval's end
        return inside_ns, offered, self.late_ns[:late].copy()


def from_gaps(given_):
    return np.cumsum([gap for gap, _ in given_]).astype(np.int64), np.array([service for _, service in given_], np.int64)


def plainly(arrive, service, servers):
    """Each one's time here, by going from event to event in exact time."""
    left, done, now = {}, {}, 0.0
    coming = sorted(range(len(arrive)), key=lambda i: arrive[i])
    while left or coming:
        speed = min(1.0, servers / len(left)) if left else 0.0
        ends = now + min(left.values()) / speed if left else float("inf")
        comes = arrive[coming[0]] if coming else float("inf")
        at = min(ends, comes)
        left = {i: rest - (at - now) * speed for i, rest in left.items()}
        now = at
        for i in [i for i, rest in left.items() if rest <= 1e-6]:
            done[i] = now - arrive[i]
            del left[i]
        if comes <= ends:
            left[coming[0]] = float(service[coming[0]])
            coming.pop(0)
    return [done[i] for i in range(len(arrive))]


@settings(deadline=None)  # the first call may compile
@given(rows, st.integers(1, 5))
def test_a_plain_simulation_tells_the_same(given_, servers):
    """Within the nanosecond to which each completion is rounded up."""
    arrive_ns, service_ns = from_gaps(given_)
    inside_ns, offered, _ = Cores(servers).take(arrive_ns, service_ns)
    assert offered.all()
    np.testing.assert_allclose(inside_ns, plainly(arrive_ns.tolist(), service_ns.tolist(), servers), atol=2 * len(given_) + 2)


@pytest.mark.parametrize("services", ["exponential", "constant", "lognormal", "two kinds"])
def test_mean_stay_follows_from_the_load_alone(services):
    """M/G/1-PS: 1 / (mu - lambda), whatever the distribution (Kleinrock, Queueing Systems II, section 4.4)."""
    rng, count, mean_ns, load = np.random.default_rng(5), 1_000_000, 1e6, 0.7
    arrive_ns = np.cumsum(rng.exponential(mean_ns / load, count)).astype(np.int64)
    sigma = np.sqrt(np.log(1 + 1.5**2))
    service_ns = {
        "exponential": lambda: rng.exponential(mean_ns, count),
        "constant": lambda: np.full(count, mean_ns),
        "lognormal": lambda: mean_ns * rng.lognormal(-(sigma**2) / 2, sigma, count),
        "two kinds": lambda: np.where(rng.random(count) < 0.1, 5.5 * mean_ns, 0.5 * mean_ns),
    }[services]()
    inside_ns, offered, _ = Cores(1).take(arrive_ns, service_ns.astype(np.int64))
    assert offered.all()
    assert inside_ns.mean() == pytest.approx(mean_ns / (1 - load), rel=0.02)


def test_a_long_request_stays_in_proportion():
    """Mean stay given the service needed: service / (1 - load), which first come, first served doesn't give."""
    rng, count, mean_ns, load = np.random.default_rng(8), 1_000_000, 1e6, 0.5
    arrive_ns = np.cumsum(rng.exponential(mean_ns / load, count)).astype(np.int64)
    service_ns = rng.exponential(mean_ns, count).astype(np.int64)
    inside_ns, _, _ = Cores(1).take(arrive_ns, service_ns)
    for low, high in ((0.1, 0.3), (0.9, 1.1), (2.5, 3.5)):
        chosen = (service_ns > low * mean_ns) & (service_ns < high * mean_ns)
        assert inside_ns[chosen].mean() == pytest.approx(service_ns[chosen].mean() / (1 - load), rel=0.02)


@settings(deadline=None)
@given(rows, st.integers(0, 3000))
def test_one_core_has_as_much_left_as_first_come_first_served(given_, now_ns):
    arrive_ns, service_ns = from_gaps(given_)
    now_ns += int(arrive_ns[-1])
    cores, free_ns = Cores(1), np.zeros(1, np.int64)
    cores.take(arrive_ns, service_ns, now_ns)
    serve(arrive_ns, service_ns, free_ns, 10**15, np.ones(len(given_), np.uint8), np.empty(len(given_), np.int64))
    assert left_over(cores.run, cores.jobs, 1, now_ns) == pytest.approx(unfinished(free_ns, now_ns), abs=len(given_) + 1)


@settings(deadline=None)
@given(rows, st.integers(1, 4))
def test_all_work_is_done_in_the_end(given_, servers):
    """As much as by servers that take one each: what was taken on, less what is left."""
    arrive_ns, service_ns = from_gaps(given_)
    cores = Cores(servers)
    offered, inside_ns = np.ones(len(given_), np.uint8), np.empty(len(given_), np.int64)
    taken, _ = share(arrive_ns, service_ns, offered, cores.run, cores.jobs, servers, LATE, inside_ns, cores.late_ns)
    assert taken == service_ns.sum()
    assert left_over(cores.run, cores.jobs, servers, LATE) == 0
    assert (inside_ns >= service_ns).all()


@settings(deadline=None)
@given(rows, st.integers(1, 4), st.integers(0, 40), st.integers(0, 100))
def test_stopping_and_going_on_changes_nothing(given_, servers, cut, later_ns):
    """Stopped before any request, and up to its arrival later: the same requests are done at the same instants."""
    arrive_ns, service_ns = from_gaps(given_)
    cut = min(cut, len(given_))
    whole, _, _ = Cores(servers).take(arrive_ns, service_ns)
    cores = Cores(servers)
    at_ns = min(int(arrive_ns[cut - 1]) + later_ns if cut else 0, int(arrive_ns[cut]) if cut < len(given_) else LATE)
    first, _, _ = cores.take(arrive_ns[:cut], service_ns[:cut], at_ns)
    second, _, late = cores.take(arrive_ns[cut:], service_ns[cut:])
    assert sorted([*first[first >= 0], *second, *late]) == sorted(whole)


def test_who_finds_all_places_taken_is_refused():
    cores = Cores(1, places=3)
    inside_ns, offered, _ = cores.take([0, 1, 2, 3, 40], [10, 10, 10, 10, 5])
    assert offered.tolist() == [1, 1, 1, 0, 1]
    assert inside_ns[3] == -1
    assert inside_ns[4] == 5


def test_a_request_that_takes_longer_than_the_interval_is_told_when_it_is_done():
    cores = Cores(1)
    inside_ns, _, late = cores.take([0, 10], [100, 30], until_ns=50)
    assert inside_ns.tolist() == [-1, -1]
    assert len(late) == 0
    _, _, late = cores.take([], [], until_ns=75)  # each had 20 of the 40 since 10: the second is done at 70
    assert late.tolist() == [60]
    _, _, late = cores.take([], [], until_ns=200)
    assert late.tolist() == [130]


@pytest.mark.parametrize(
    ("servers", "work_ns", "taken"),
    [(1, 10, 10), (2, 10, 10), (2, 11, 10), (1, 10**9, 1050), (2, 10**9, 2100), (3, 0, 0)],
)
def test_bulk_work_is_a_job_a_core(servers, work_ns, taken):
    cores = Cores(servers)
    assert share_bulk(cores.run, cores.jobs, servers, 100, 1000, work_ns, 50) == taken
    assert left_over(cores.run, cores.jobs, servers, 100) == taken
    assert left_over(cores.run, cores.jobs, servers, 101) == max(taken - servers, 0)
    assert complete(cores.run, cores.jobs, servers, LATE, np.empty(0, np.int64), cores.late_ns, 0) == 0  # no request: not told
