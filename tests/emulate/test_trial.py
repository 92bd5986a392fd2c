"""One VM's traffic on many machines: what the queue shows, that alike machines are alike, and why one isn't enough."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.emulate.layout import LOAD
from adumbra.emulate.paths import NetworkPath
from adumbra.emulate.roles import bundled_priors
from adumbra.emulate.trial import EASY_NS, Asked, Candidate, Traffic, Trial, Tried, shortcomings, sweep
from adumbra.emulate.vm import EmulatedVm
from adumbra.schema.sizing import BYTES_PER_GB, Machine

SECOND = 1_000_000_000
MACHINE = Machine(2, 4, 10_000, 20)
NEAR = NetworkPath(0.0)


def vm_of(cv: float = 1.0, path: NetworkPath = NEAR, **cpu: object) -> EmulatedVm:
    prior = bundled_priors().prior("generic")
    figures = prior.cpu.model_copy(update={"service_cv": cv, "idle_cores": 0.0, "servers": None, "discipline": "fcfs"} | cpu)
    return EmulatedVm("vm", prior.model_copy(update={"cpu": figures}), MACHINE, path)


def traffic_of(
    counts: list[int], work_s: float, rx: float = 0.0, tx: float = 0.0, vm: EmulatedVm | None = None, *, length_s: int = 1
) -> Traffic:
    """So many requests in each interval, each of the same mean work, with so many bytes in and out."""
    load = np.zeros(len(counts), LOAD)
    load["drawn"], load["stands_for"] = counts, 1.0
    load["work_s"] = np.array(counts) * work_s
    load["rx_bytes"], load["tx_bytes"] = np.array(counts) * rx, np.array(counts) * tx
    start_ns = np.arange(len(counts), dtype=np.int64) * length_s * SECOND
    return Traffic.of(vm or vm_of(), start_ns, length_s * SECOND, load, seed=7, memory_bytes=3.0 * BYTES_PER_GB)


def erlang_c(servers: int, load: float) -> float:
    """The share of arrivals that wait at M/M/k (Erlang, 1917)."""
    terms = [load**n / math.factorial(n) for n in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize(("servers", "load"), [(2, 1.4), (4, 3.2), (8, 6.0)])
def test_waits_are_those_of_erlang(servers: int, load: float) -> None:
    """Services of cv 1 aren't exponential but lognormal: their mean wait is near M/M/k's all the same (Lee and Longton)."""
    rng = np.random.default_rng(servers)
    work_s = 0.01
    traffic = traffic_of(rng.poisson(load / work_s, 900).tolist(), work_s)
    trial = Trial(traffic)
    trial.of(Candidate(replace(MACHINE, cpu_cores=servers)))
    mean_wait_s = float((trial._inside_ns - trial._service_ns).mean()) / 1e9
    want = erlang_c(servers, load) * work_s / (servers - load)
    assert mean_wait_s == pytest.approx(want, rel=0.15)


GBPS = 125_000_000  # bytes a second
cores = st.sampled_from([0.5, 1, 1.9, 2, 3, 4, 8, 16])
speeds = st.sampled_from([0.5, 1.0, 1.7])
baselines = st.sampled_from([5.0, 50.0, 500.0, 600.0, 1000.0, 25_000.0])
peaks = st.sampled_from([None, 400.0, 700.0, 1100.0, 5000.0, 25_000.0])
candidates = st.builds(
    lambda c, s, mbps, peak: Candidate(Machine(c, 4, mbps, 20, peak and max(peak, mbps)), s), cores, speeds, baselines, peaks
)


def assert_alike(found: Tried, alone: Tried) -> None:
    """A verdict is the same; a latency may lack what an easy link takes: the queues both ways, and to be sent."""
    for name, value in found.to_dict().items():
        wanted = getattr(alone, name)
        if name.startswith("latency"):
            assert value == pytest.approx(wanted, abs=3 * EASY_NS / 1e6, nan_ok=True), name
        else:
            assert value == pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True), name


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=30), st.sampled_from([1, 60]), st.sampled_from([0.0, 0.002, 0.05, 2.0]),
    st.sampled_from([0.0, 500.0, 40_000.0, 1.1e8]), st.sampled_from([0.0, 0.02]), st.sampled_from([None, 1]),
    st.sampled_from(["fcfs", "ps"]), st.lists(candidates, min_size=2, max_size=8),
)  # fmt: skip
def test_in_whatever_order_machines_are_tried_each_shows_what_it_shows_by_itself(
    counts: list[int], length_s: int, work_s: float, size: float, idle: float, servers: int | None, discipline: str,
    machines: list[Candidate],
) -> None:  # fmt: skip
    vm = vm_of(path=NetworkPath(0.0, GBPS * 8), idle_cores=idle, servers=servers, discipline=discipline)
    traffic = traffic_of(counts, work_s, 200.0, size, vm, length_s=length_s)
    trial = Trial(traffic)
    alone = [Trial(traffic).of(machine) for machine in machines]
    for machine, swept, by_itself in zip(machines, sweep(traffic, machines), alone, strict=True):
        assert_alike(trial.of(machine), by_itself)
        assert_alike(swept, by_itself)


def gigabit(counts: list[int], work_s: float, size: float, length_s: int = 60) -> Traffic:
    return traffic_of(counts, work_s, 0.0, size, vm_of(path=NetworkPath(0.0, GBPS * 8)), length_s=length_s)


@pytest.mark.parametrize(
    ("traffic", "machines"),
    [
        # A path of 1 Gbps makes the peaks one, and the credit of the one lasts for the 20 minutes.
        (gigabit([60] * 20, 0.0, 0.9 * GBPS), (Machine(4, 4, 500, 20, 1100), Machine(4, 4, 500, 20, 5000))),
        # A link that is easy as long as it bursts says nothing of one that never does.
        (gigabit([125_000] * 4, 0.0, 600, 1), (Machine(4, 4, 500, 20, 5000), Machine(4, 4, 550, 20))),
        # Where the cores refuse most requests, little passes the link.
        (gigabit([30_000] * 3 + [120_000] * 3, 3e-4, 24, 1), (Machine(1, 4, 20, 20), Machine(128, 4, 20, 20))),
        # Nobody waits on any of these, but a server is 1.45 cores, one, or 1.3.
        (gigabit([1] * 60, 0.01, 0.0, 1), tuple(Machine(k, 4, 10_000, 20) for k in (2.9, 3, 3.9))),
    ],
)
def test_machines_that_differ_in_little(traffic: Traffic, machines: tuple[Machine, ...]) -> None:
    alone = [Trial(traffic).of(Candidate(machine)) for machine in machines]
    assert alone[0] != alone[1]
    for order in permutations(range(len(machines))):
        trial = Trial(traffic)
        for number in order:
            assert_alike(trial.of(Candidate(machines[number])), alone[number])
    for found, want in zip(sweep(traffic, [Candidate(machine) for machine in machines]), alone, strict=True):
        assert_alike(found, want)


def test_shared_cores_answer_as_theory_says() -> None:
    """M/G/1 with shared processors: a mean time here of service / (1 - load), whatever the services' variation."""
    rng = np.random.default_rng(3)
    work_s, load = 0.02, 0.6
    for cv in (0.3, 2.0):
        traffic = traffic_of(rng.poisson(load / work_s, 3000).tolist(), work_s, vm=vm_of(cv, discipline="ps"))
        trial = Trial(traffic)
        trial.of(Candidate(replace(MACHINE, cpu_cores=1)))
        assert float(trial._inside_ns.mean()) / 1e9 == pytest.approx(work_s / (1 - load), rel=0.1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 80), min_size=5, max_size=40), st.sampled_from([0.001, 0.02, 0.2]), speeds)
def test_more_cores_are_never_worse(counts: list[int], work_s: float, speed: float) -> None:
    traffic = traffic_of(counts, work_s)
    tried = [Trial(traffic).of(Candidate(replace(MACHINE, cpu_cores=k), speed)) for k in (1, 2, 4, 8, 16)]
    for fewer, more in pairwise(tried):
        assert more.cpu_short <= fewer.cpu_short
        assert more.loss <= fewer.loss + 1e-12
        if fewer.loss == 0.0:  # else the fewer answered others than the more did
            assert not more.latency_ms_p99 > fewer.latency_ms_p99 * (1 + 1e-9)
            assert not more.latency_ms_p50 > fewer.latency_ms_p50 * (1 + 1e-9)


def test_what_a_machine_is_short_of() -> None:
    traffic = traffic_of([100] * 60, 0.05, 1000.0, 200_000.0)  # 5 cores of work, 160 Mbit/s out
    small = Trial(traffic).of(Candidate(Machine(4, 2, 100, 20)))
    large = Trial(traffic).of(Candidate(Machine(8, 4, 1000, 20)))
    asked = Asked(shortfall=0.01, latency_ms_p99=50.0, loss=0.001)
    assert small.cpu_short == 1.0
    assert small.cpu_utilization == pytest.approx(1.0)
    assert large.cpu_utilization == pytest.approx(5 / 8, rel=1e-6)
    found = shortcomings(small, Machine(4, 2, 100, 20), asked)
    assert [why.split()[0] for why in found] == ["CPU", "needs", "p99", "loses"]
    assert shortcomings(large, Machine(8, 4, 1000, 20), Asked(loss=0.001)) == ()


def test_software_that_works_on_one_request_at_once_gains_nothing_from_a_second_core() -> None:
    traffic = traffic_of([60] * 120, 0.012, vm=vm_of(servers=1))
    one, four = (Trial(traffic).of(Candidate(replace(MACHINE, cpu_cores=k))) for k in (1, 4))
    assert four.latency_ms_p99 == pytest.approx(one.latency_ms_p99, rel=0.01)
    assert four.cpu_utilization == pytest.approx(one.cpu_utilization / 4, rel=0.01)
    crowd = Trial(traffic_of([200] * 60, 0.012, vm=vm_of(servers=1))).of(Candidate(replace(MACHINE, cpu_cores=4)))
    assert shortcomings(crowd, replace(MACHINE, cpu_cores=4), Asked())[0].endswith("its software uses 1 of the cores")


def test_a_faster_core_answers_sooner_in_proportion_where_nothing_waits() -> None:
    traffic = traffic_of([1] * 200, 0.02)
    slow, fast = (Trial(traffic).of(Candidate(replace(MACHINE, cpu_cores=64), speed)) for speed in (1.0, 2.0))
    assert slow.latency_ms_p50 == pytest.approx(2 * fast.latency_ms_p50, rel=0.01)


def test_nothing_at_all() -> None:
    traffic = traffic_of([0] * 10, 0.01)
    tried = Trial(traffic).of(Candidate(MACHINE))
    assert math.isnan(tried.latency_ms_p99)
    assert (tried.cpu_utilization, tried.loss) == (0.0, 0.0)
    assert shortcomings(tried, MACHINE, Asked(latency_ms_p99=1.0)) == ()
