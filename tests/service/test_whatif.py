"""What if the traffic grew, or a VM stood elsewhere: made traffic whose work is known, answered from what is stored of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adumbra.emulate.demand import wakes
from adumbra.profile.catalog import load_catalog
from adumbra.schema.errors import InputError, NotFoundError, TooLittleDataError
from adumbra.schema.metrics import METRICS
from adumbra.schema.records import NANOSECONDS, MetricBatch
from adumbra.service import networks, replays
from adumbra.service.observations import emulated_vms
from adumbra.service.whatif import Question, joined, traffic_of, what_if
from adumbra.service.workspace import Workspace

SPEC = """\
name: lab
cidrs: [10.9.0.0/16]
subnets: [{name: a, cidr: 10.9.1.0/24}]
links: [{between: [a, internet], rtt: 10ms, bandwidth: 10Gbps}]
vms:
  - {name: web, subnet: a, role: nginx, addresses: [10.9.1.10], type: m7i.large, ports: [80]}
  - {name: db, subnet: a, role: postgresql, addresses: [10.9.1.11], resources: {cpu_cores: 4, memory_gb: 16}}
targets: {shortfall: 1%, latency_p99: 200ms, loss: 1%}
"""
START_S, SECONDS = 1_700_000_000, 300


def traffic(rate: float = 40.0) -> MetricBatch:
    requests = np.random.default_rng(2).poisson(rate, (SECONDS, 2))
    columns = {metric.name: np.zeros((SECONDS, 2), np.int64 if metric.whole else np.float64) for metric in METRICS}
    columns["requests"], columns["connections_attempted"], columns["connections_active"] = requests, requests // 4, requests
    columns["rx_bytes"], columns["tx_bytes"] = requests * 400, requests * 9000
    columns["rx_packets"], columns["tx_packets"] = requests * 3, requests * 8
    starts = (START_S + np.arange(SECONDS)) * NANOSECONDS
    return MetricBatch("lab", 1.0, ("web", "db"), starts, columns, np.zeros((SECONDS, 2), np.bool_), "pcap:made.pcap")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        networks.create(opened, SPEC, "lab.yaml", 1)
        opened.metrics.write(traffic())
        yield opened


def test_the_same_traffic_on_the_same_machine_is_what_is(lab: Workspace) -> None:
    for answer in what_if(lab, "lab", Question()).vms:
        (then,) = answer.choices
        assert then == answer.now == answer.declared
        central, low, high = answer.interval["cpu_utilization"]
        assert low <= central <= high
        assert then.tried.cpu_utilization == pytest.approx(central, rel=0.1)


def test_cpu_follows_the_law_of_the_roles_costs(lab: Workspace) -> None:
    (web,) = what_if(lab, "lab", Question(vms=("web",))).vms
    vm = next(vm for vm in emulated_vms(networks.get(lab, "lab")) if vm.name == "web")
    (intervals,) = replays.replay(lab, "lab", ["web"], replays.span(lab, "lab"))
    cpu = vm.believed.cpu
    count = {name: float(np.asarray(column)[:, 0].mean()) for name, column in intervals.columns.items()}
    least = cpu.idle_cores + cpu.request_s * count["requests"] + cpu.connection_s * count["connections_attempted"]
    bytes_s = cpu.byte_in_s * count["rx_bytes"] + cpu.byte_out_s * count["tx_bytes"]
    least += bytes_s + cpu.packet_s * (count["rx_packets"] + count["tx_packets"])
    per_second = np.asarray(intervals.columns["requests"], np.float64)[:, 0]
    least += cpu.wake_s * float(wakes(per_second, intervals.interval_ns / 1e9).mean())
    assert web.now.tried.cpu_utilization * 2 == pytest.approx(least, rel=0.1)


def test_more_traffic_is_more_work_and_never_sooner(lab: Workspace) -> None:
    tried = [what_if(lab, "lab", Question(factor=k, vms=("db",))).vms[0].choices[0].tried for k in (0.5, 1.0, 2.0, 8.0)]
    for less, more in itertools.pairwise(tried):
        assert more.cpu_utilization > less.cpu_utilization
        assert more.latency_ms_p99 > less.latency_ms_p99 * 0.9  # their draws differ
    assert tried[2].bandwidth_mbps == pytest.approx(2 * tried[1].bandwidth_mbps, rel=1e-6)


@pytest.mark.parametrize("factor", [0.02, 0.1, 0.5, 1.5, 2.25])
def test_a_share_of_the_traffic_is_fewer_requests_of_the_same_work(tmp_path: Path, factor: float) -> None:
    """A few requests a second: a tenth of them are parts of requests, unless they are whole in a tenth of the seconds."""
    with Workspace(tmp_path / "home") as lab:
        networks.create(lab, SPEC, "lab.yaml", 1)
        lab.metrics.write(traffic(rate=4.0))
        (_, db) = emulated_vms(networks.get(lab, "lab"))
        cpu = db.prior.cpu.model_copy(update={"wake_s": 0.0, "service_cv": 0.0})
        vm = replace(db, prior=db.prior.model_copy(update={"cpu": cpu}))
        span = replays.span(lab, "lab")
        whole, part = (traffic_of(vm, joined(list(replays.replay(lab, "lab", ["db"], span, times)))) for times in (1.0, factor))
    asked = whole.requests * factor
    assert part.requests == pytest.approx(asked, abs=4 * np.sqrt(SECONDS / 4))
    assert part.reference_ns.mean() == pytest.approx(whole.reference_ns.mean(), rel=0.05)
    assert part.work_s.sum() == pytest.approx(part.reference_ns.sum() / 1e9, rel=0.05), "all work is some request's"


def test_a_machine_that_is_too_small_says_what_of(lab: Workspace) -> None:
    (answer,) = what_if(lab, "lab", Question(factor=200.0, vms=("db",), type="m7g.medium", last_s=20.0)).vms
    (then,) = answer.choices
    assert not then.fits
    assert any(why.startswith("CPU short") for why in then.short)
    assert (then.type, then.arch, then.price_per_hour) == (
        "m7g.medium",
        "arm64",
        load_catalog().type("m7g.medium").price_per_hour,
    )
    assert answer.now.fits
    assert answer.now.type is None, "it is declared by its resources"
    assert answer.declared.machine == answer.now.machine
    assert not answer.declared.fits, "nor is the declared machine enough for so much"


def test_a_sweep_tries_every_type_and_finds_the_cheapest(lab: Workspace) -> None:
    web, db = what_if(lab, "lab", Question(factor=20.0, every_type=True)).vms
    for answer in (web, db):
        assert [choice.type for choice in answer.choices] == [each.name for each in load_catalog().by_price]
        fitting = [choice for choice in answer.choices if choice.fits]
        assert answer.cheapest is not None
        assert answer.cheapest.price_per_hour == min(choice.price_per_hour or 0 for choice in fitting)
        assert all("bursts" in " ".join(c.short) for c in answer.choices if (c.type or "").startswith("t3."))
    alone = what_if(lab, "lab", Question(factor=20.0, vms=("web",), type="c7g.xlarge")).vms[0].choices[0]
    swept = next(choice for choice in web.choices if choice.type == "c7g.xlarge")
    assert swept.tried.cpu_utilization == pytest.approx(alone.tried.cpu_utilization)
    assert swept.tried.latency_ms_p99 == pytest.approx(alone.tried.latency_ms_p99, rel=0.02, abs=0.2)


@pytest.mark.parametrize(
    ("question", "error", "why"),
    [
        (Question(vms=("nobody",)), InputError, "no VM 'nobody'"),
        (Question(type="m7i.huge"), InputError, "no current instance type"),
        (Question(factor=0.0), InputError, "out of range"),
        (Question(factor=1e9), InputError, "out of range"),
        (Question(last_s=0.0), InputError, "no time was asked for"),
    ],
)
def test_questions_that_have_no_answer(lab: Workspace, question: Question, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        what_if(lab, "lab", question)


def test_a_network_that_nothing_is_known_of(tmp_path: Path) -> None:
    with Workspace(tmp_path / "home") as workspace:
        with pytest.raises(NotFoundError):
            what_if(workspace, "lab", Question())
        networks.create(workspace, SPEC, "lab.yaml", 1)
        with pytest.raises((InputError, TooLittleDataError), match="observed"):
            what_if(workspace, "lab", Question())


def test_gaps_are_no_traffic_but_no_time_either(lab: Workspace) -> None:
    later = traffic()
    columns = dict(later.columns)
    gap = MetricBatch("lab", 1.0, later.vms, later.start_ns + 7200 * NANOSECONDS, columns, later.one_sided, "pcap:later.pcap")
    lab.metrics.write(gap)
    parts = list(replays.replay(lab, "lab", ["web", "db"], replays.span(lab, "lab")))
    assert sum(map(len, parts)) == 2 * SECONDS
    (web,) = what_if(lab, "lab", Question(vms=("web",))).vms
    assert web.now.tried.cpu_short == 0.0
    (last,) = what_if(lab, "lab", Question(vms=("web",), last_s=100.0)).vms
    assert last.now.tried.cpu_utilization == pytest.approx(web.now.tried.cpu_utilization, rel=0.1)


def test_less_than_an_interval_is_an_interval(lab: Workspace) -> None:
    for asked_s in (1e-3, 0.7, 1.0):
        found = what_if(lab, "lab", Question(last_s=asked_s))
        assert (found.observed_s, found.end_ns - found.start_ns) == (1.0, NANOSECONDS)
        assert found.end_ns == (START_S + SECONDS) * NANOSECONDS


def test_it_says_how_much_time_there_really_was(lab: Workspace) -> None:
    found = what_if(lab, "lab", Question(last_s=86_400.0))
    assert (found.start_ns, found.observed_s) == (START_S * NANOSECONDS, SECONDS)
    later = traffic()
    lab.metrics.write(replace(later, start_ns=later.start_ns + 7200 * NANOSECONDS, source="pcap:later.pcap"))
    both = what_if(lab, "lab", Question(last_s=None))
    assert both.observed_s == 2 * SECONDS, "nothing was seen between"
    assert both.end_ns - both.start_ns == (7200 + SECONDS) * NANOSECONDS


def test_a_time_in_which_a_vm_was_not_seen_is_refused(lab: Workspace) -> None:
    alone = traffic()
    columns = {name: values[:, :1] for name, values in alone.columns.items()}
    start_ns = alone.start_ns + 7200 * NANOSECONDS
    lab.metrics.write(MetricBatch("lab", 1.0, ("web",), start_ns, columns, alone.one_sided[:, :1], "pcap:later.pcap"))
    with pytest.raises(TooLittleDataError, match="nothing of db was observed in the last 1 min; ask for more time with --last"):
        what_if(lab, "lab", Question(vms=("db",), last_s=60.0))


def test_a_vm_whose_size_nobody_declared_is_said_to_be_assumed(tmp_path: Path) -> None:
    with Workspace(tmp_path / "home") as workspace:
        networks.create(workspace, SPEC.replace(", type: m7i.large", ""), "lab.yaml", 1)
        workspace.metrics.write(traffic())
        assert [answer.assumed for answer in what_if(workspace, "lab", Question()).vms] == [True, False]
