"""The loop over live networks: what it reads, lets go of, and learns from; on real stores and scripted providers."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.service.lab import SPEC, START_S, traffic
from tests.service.scripted import Scripted, moments

from adumbra.daemon.ownership import SoleOwner
from adumbra.daemon.watching import AT_ONCE, Measured, Watch, Watching, is_due
from adumbra.schema.errors import ProvisionError
from adumbra.schema.jobs import JobKind, JobState
from adumbra.schema.records import MetricBatch, Origin
from adumbra.schema.state import NetworkState, PlanState
from adumbra.service import networks
from adumbra.service.workspace import Workspace

S = 10**9
HOUR = 3600 * S
NOW_NS = (START_S + 7200) * S
NEVER_LEARNS = Watch(every_s=1.0, calibrate_s=math.inf)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        yield opened


def made(workspace: Workspace, name: str, *, active: bool = True) -> None:
    """A network, as if it had been activated."""
    networks.create(workspace, SPEC.replace("name: lab", f"name: {name}", 1), f"{name}.yaml", 1)
    if active:
        plan = {"network": name, "provider": "scripted", "steps": [], "price_per_hour": None, "aim": "active"}
        record = workspace.state.plans.begin(name, plan, 2, "it begins")
        workspace.state.plans.finish(record.id, PlanState.DONE, 3, (NetworkState.ACTIVE, "it stands"))


def script(cores: float = 0.5, steps: int = 40) -> Scripted:
    return Scripted(moments(START_S, {"web": np.full(steps, cores)}))


class Providers:
    """Gives each network its provider, and remembers for whom one was asked."""

    def __init__(self, **of: Scripted) -> None:
        self.of, self.asked = of, list[str]()

    def __call__(self, workspace: Workspace, provider: str, network: str) -> Scripted:
        del workspace
        assert provider == "scripted"
        self.asked.append(network)
        return self.of[network]


def watching(workspace: Workspace, providers: Providers, watch: Watch = NEVER_LEARNS) -> Watching:
    return Watching(workspace, lambda: NOW_NS, SoleOwner(), watch, lambda: None, providers)


def stored_s(workspace: Workspace, name: str) -> float:
    span = workspace.metrics.span(name, Origin.LIVE)
    return 0.0 if span is None else (span[1] - span[0]) / S


def turn_until(loop: Watching, holds: Callable[[], bool]) -> None:
    """Takes turns until something holds: on a busy machine a turn's readings may end after it."""
    for _ in range(100):
        loop.turn()
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to that")


def test_active_networks_are_read_by_one_connection_each_and_others_are_not(workspace: Workspace) -> None:
    for name, active in (("lab", True), ("other", True), ("idle", False)):
        made(workspace, name, active=active)
    providers = Providers(lab=script(steps=4), other=script(steps=4), idle=script())
    loop = watching(workspace, providers)
    turn_until(loop, lambda: (stored_s(workspace, "lab"), stored_s(workspace, "other")) == (3.0, 3.0))
    assert sorted(providers.asked) == ["lab", "other"]
    assert (stored_s(workspace, "lab"), stored_s(workspace, "other"), stored_s(workspace, "idle")) == (3.0, 3.0, 0.0)
    told = {(each.name, each.labels): each.value for each in loop.readings()}
    assert told["adumbra_live_rows_total", ("lab",)] == 3
    assert told["adumbra_live_machines", ("lab",)] == 1
    loop.end()
    assert (providers.of["lab"].opened, providers.of["lab"].closed) == (1, 1)


def test_what_is_no_longer_active_is_let_go_of_and_its_counts_go_on_when_it_is_again(workspace: Workspace) -> None:
    made(workspace, "lab")
    providers = Providers(lab=script())
    loop = watching(workspace, providers)
    loop.turn()
    loop.turn()
    workspace.state.set_network_state("lab", NetworkState.ACTIVATING, 10, "it is resized")
    loop.turn()
    assert (providers.of["lab"].asked, providers.of["lab"].closed) == (2, 1)
    assert list(loop.readings()) == []
    workspace.state.set_network_state("lab", NetworkState.ACTIVE, 11, "it stands")
    loop.turn()
    assert providers.of["lab"].opened == 2


def test_one_that_fails_keeps_no_other_from_being_read_and_is_tried_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(workspace, "bad")
    made(workspace, "lab")
    bad = script()
    bad.moments[1] = ProvisionError("the hypervisor is away", "start it")
    bad.moments[2] = RuntimeError("a driver's own mistake")
    providers = Providers(bad=bad, lab=script())
    loop = watching(workspace, providers)
    loop.turn()
    loop.turn()
    assert (bad.closed, stored_s(workspace, "lab")) == (1, 1.0)
    told = {(each.name, each.labels): each.value for each in loop.readings()}
    assert (told["adumbra_live_up", ("bad",)], told["adumbra_live_up", ("lab",)]) == (0.0, 1.0)
    loop.turn()
    assert bad.asked == 2, "not at once"
    monkeypatch.setattr("adumbra.daemon.watching.pause_s", lambda _: 0.0)
    loop._watched["bad"].next_s = 0.0
    for _ in range(3):
        loop.turn()
    assert stored_s(workspace, "bad") == 4.0, "the counters went on meanwhile"
    told = {(each.name, each.labels): each.value for each in loop.readings()}
    assert (told["adumbra_live_up", ("bad",)], told["adumbra_live_failures_total", ("bad",)]) == (1.0, 2)


def test_one_that_hangs_keeps_no_other_from_being_read_and_is_closed_once_it_answers(workspace: Workspace) -> None:
    answers = threading.Event()

    class Hanging(Scripted):
        def usage(self, network: str) -> tuple:
            assert answers.wait(30.0)
            return super().usage(network)

    made(workspace, "bad")
    made(workspace, "lab")
    bad = Hanging(script().moments)
    loop = watching(workspace, Providers(bad=bad, lab=script()), Watch(every_s=0.2, calibrate_s=math.inf))
    turn_until(loop, lambda: stored_s(workspace, "lab") >= 2.0)
    assert len([each for each in loop._threads if each.is_alive()]) == 1 < AT_ONCE
    loop.end()
    assert bad.closed == 0, "nobody closes what somebody uses"
    answers.set()
    until = time.monotonic() + 10
    while not bad.closed and time.monotonic() < until:
        time.sleep(0.01)
    assert bad.closed == 1


def test_a_provider_that_tells_nothing_is_left_alone_for_a_while(workspace: Workspace) -> None:
    made(workspace, "lab")
    silent = Scripted([()])
    loop = watching(workspace, Providers(lab=silent))
    for _ in range(3):
        loop.turn()
    assert (silent.asked, silent.opened, silent.closed) == (1, 1, 1)
    assert workspace.metrics.span("lab", Origin.LIVE) is None


def test_off_is_off(workspace: Workspace) -> None:
    made(workspace, "lab")
    providers = Providers(lab=script())
    watching(workspace, providers, Watch(math.inf, 60.0)).turn()
    assert providers.asked == []


ENOUGH = Measured((0, HOUR), HOUR, 0, None)


@pytest.mark.parametrize(
    ("change", "due"),
    [
        ({}, True),
        ({"live": None}, False),
        ({"live": (0, HOUR - 1)}, False),
        ({"shadow_end_ns": HOUR // 2}, False),
        ({"learned_end_ns": 1}, False),
        ({"live": (0, 3 * HOUR), "shadow_end_ns": 3 * HOUR, "learned_end_ns": 2 * HOUR}, True),
        ({"busy": frozenset({JobKind.CALIBRATE})}, False),
        ({"busy": frozenset({JobKind.TRAIN})}, False),
        ({"busy": frozenset({JobKind.ACTIVATE})}, True),
        ({"failed_ns": 10 * HOUR - 1}, False),
        ({"failed_ns": 9 * HOUR}, True),
        ({"failed_ns": 11 * HOUR}, True),
    ],
)  # fmt: skip
def test_it_is_calibrated_once_there_is_enough_that_is_new(change: dict[str, object], due: bool) -> None:
    measured = replace(ENOUGH, **change)  # type: ignore[arg-type]
    assert is_due(measured, Watch(5.0, 3600.0), 10 * HOUR) is due
    assert not is_due(measured, Watch(5.0, math.inf), 10 * HOUR)


def test_the_loop_queues_the_calibration_that_the_live_readings_are_enough_for(workspace: Workspace) -> None:
    made(workspace, "lab")
    seen = traffic(120)
    workspace.metrics.write(seen)
    workspace.metrics.write(
        MetricBatch("lab", 1.0, ("web",), seen.start_ns, {"cpu_seconds": np.full((120, 1), 0.5)}, np.zeros((120, 1), np.bool_),
                    "scripted", Origin.LIVE)
    )  # fmt: skip
    woken: list[bool] = []
    loop = Watching(
        workspace, lambda: NOW_NS, SoleOwner(), Watch(1.0, 60.0), lambda: woken.append(True), Providers(lab=Scripted([()]))
    )
    loop.turn()
    (job,) = workspace.state.jobs.of("lab")
    assert (job.kind, job.state, job.by, job.asked["usage"], job.asked["update"]) == (
        JobKind.CALIBRATE, JobState.QUEUED, "server", "live:", False,
    )  # fmt: skip
    assert woken == [True]
    loop._learned_s = -math.inf
    loop.turn()
    assert len(workspace.state.jobs.of("lab")) == 1, "one is waiting"
