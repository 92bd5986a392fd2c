"""The live network: a provider's readings are stored beside the shadow's rows, compared with them, and calibrate the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.service.lab import SECONDS, START_S, made_lab
from tests.service.scripted import HEADER, Scripted, moments

from adumbra.cli.output import plain
from adumbra.scale.score import Score
from adumbra.schema.errors import InputError, ProvisionError, TooLittleDataError
from adumbra.schema.jobs import JobKind
from adumbra.schema.records import NANOSECONDS, MetricBatch, Origin, SeriesQuery
from adumbra.service import calibrations, live, networks
from adumbra.service.jobs import perform
from adumbra.service.workspace import Workspace


def now() -> int:
    return 1_800_000_000 * NANOSECONDS


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace(tmp_path / "home") as opened:
        made_lab(opened)
        yield opened


def predicted_cores(workspace: Workspace) -> np.ndarray:
    """Cores that web is predicted to use, second by second."""
    return workspace.metrics.read(SeriesQuery("lab", ("cpu_seconds",), ("web",))).values["cpu_seconds"][0]


def watch(workspace: Workspace, provider: Scripted, every: int = 10) -> live.Follower:
    """Reads some of the moments of a script; on the grid on which is compared they are as good as all."""
    provider.moments = provider.moments[::every]
    follower = live.follower_of(networks.get(workspace, "lab"), "scripted")
    with provider:
        for _ in provider.moments:
            live.read_once(workspace, provider, follower)
    return follower


def of(found: live.Comparison, vm: str, resource: str, way: str = "") -> Score:
    scores = next(each.scores for each in found.vms if each.vm == vm)
    return next(each for each in scores if (each.resource, each.way) == (resource, way))


def test_readings_are_stored_beside_the_shadow(workspace: Workspace) -> None:
    before = workspace.metrics.read(SeriesQuery("lab", ("cpu_seconds",)))
    follower = watch(workspace, Scripted(moments(START_S, {"web": np.full(20, 0.5)})), 1)
    assert follower.tally.rows == 20
    real = workspace.metrics.read(
        SeriesQuery("lab", ("cpu_seconds", "cpu_utilization", "memory_bytes"), ("web",), origin=Origin.LIVE)
    )
    assert real.values["cpu_seconds"].tolist() == [[0.5] * 20]
    assert real.values["cpu_utilization"].tolist() == [[0.25] * 20]
    assert real.values["memory_bytes"].tolist() == [[float(2**31)] * 20]
    after = workspace.metrics.read(SeriesQuery("lab", ("cpu_seconds",)))
    assert np.array_equal(before.values["cpu_seconds"], after.values["cpu_seconds"])


def test_a_provider_that_tells_nothing_stores_nothing(workspace: Workspace) -> None:
    follower = live.follower_of(networks.get(workspace, "lab"), "scripted")
    assert live.read_once(workspace, Scripted([()]), follower) is None
    assert workspace.metrics.span("lab", Origin.LIVE) is None
    with pytest.raises(ProvisionError, match="away"):
        live.read_once(workspace, Scripted([ProvisionError("it is away")]), follower)


def test_predicted_is_held_against_measured(workspace: Workspace) -> None:
    """web uses half as much again as was predicted: outside of what the lab believes, which reaches to twice that."""
    cores = predicted_cores(workspace)
    watch(workspace, Scripted(moments(START_S, {"web": 1.5 * cores})))
    found = live.compare(workspace, "lab")
    assert (found.start_ns, found.end_ns, found.step_s, found.steps) == (
        START_S * NANOSECONDS, (START_S + SECONDS) * NANOSECONDS, 10.0, 30,
    )  # fmt: skip
    cpu = of(found, "web", "cpu_cores")
    assert (cpu.paired, cpu.judged, cpu.only_predicted, cpu.only_measured) == (30, 30, 0, 0)
    assert cpu.predicted is not None
    assert cpu.measured is not None
    assert cpu.predicted.mean == pytest.approx(float(cores.mean()))
    assert cpu.measured.mean == pytest.approx(1.5 * float(cores.mean()))
    assert cpu.bias == pytest.approx(-0.5 * float(cores.mean()))
    assert cpu.error == pytest.approx(1 / 3)
    assert cpu.coverage is not None
    assert (cpu.coverage.count, cpu.coverage.of) == (30, 30)
    assert cpu.coverage.low == pytest.approx(0.8865, abs=1e-3)
    assert of(found, "web", "memory_gb").measured == of(found, "web", "memory_gb").predicted
    db = next(each for each in found.vms if each.vm == "db")
    assert db.word == "not measured"
    assert all(each.paired == 0 and each.measured is None for each in db.scores), "what wasn't measured is no zero"
    assert [each.vm for each in found.vms] == ["web", "db"]
    assert live.Comparison.from_dict(json.loads(json.dumps(plain(found.to_dict())))) == found


def test_bandwidth_is_compared_each_way(workspace: Workspace) -> None:
    """The real machine's counters have link headers in them; what is compared has not."""
    made = workspace.metrics.read(SeriesQuery("lab", ("rx_bytes", "rx_packets", "tx_bytes", "tx_packets"), ("web",)))
    total = {name: np.concatenate([[0], np.cumsum(values[0])]) for name, values in made.values.items()}

    def counted(vm: str, t: int) -> dict[str, object]:
        told: dict[str, object] = {name: int(values[t]) for name, values in total.items()}
        for way in ("rx", "tx"):
            told[f"{way}_bytes"] = int(total[f"{way}_bytes"][t] + HEADER * total[f"{way}_packets"][t])
        return told

    watch(workspace, Scripted(moments(START_S, {"web": np.full(SECONDS, 0.1)}, more=counted)))
    found = live.compare(workspace, "lab")
    for way in ("rx", "tx", ""):
        score = of(found, "web", "bandwidth_mbps", way)
        assert (score.paired, score.bias, score.error) == (30, pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))
        assert score.coverage is None, "bandwidth is observed on both sides: there is no interval to hold"
    busier, out = of(found, "web", "bandwidth_mbps"), of(found, "web", "bandwidth_mbps", "tx")
    assert busier.measured == out.measured
    assert busier.promise is not None
    assert busier.promise.estimate is not None
    assert out.promise is not None
    assert (out.promise.estimate, out.promise.provisioned) == (None, 50.0)


def test_the_promise_is_what_the_profile_said(workspace: Workspace) -> None:
    """The profile gave web 2 cores, short in at most 1 % of the time; it uses 3 in a fifth of it."""
    cores = np.where(np.arange(SECONDS) % 50 < 10, 3.0, 0.2)
    watch(workspace, Scripted(moments(START_S, {"web": cores})))
    found = live.compare(workspace, "lab")
    assert found.shortfall == 0.01
    promise = of(found, "web", "cpu_cores").promise
    assert promise is not None
    assert promise.short is not None
    assert (promise.provisioned, promise.short.count, promise.short.of) == (2.0, 6, 30)
    assert promise.needed is None, "of 30 steps none is a hundredth"
    assert next(each.word for each in found.vms if each.vm == "web") == "short of CPU"


def test_gaps_stay_gaps_and_a_step_that_is_half_known_is_unknown(workspace: Workspace) -> None:
    told = moments(START_S, {"web": np.full(SECONDS, 0.2)})
    told[25:42] = [()] * 17  # it stood still from the 25th to the 42nd second
    watch(workspace, Scripted(told), 1)
    found = of(live.compare(workspace, "lab"), "web", "cpu_cores")
    assert (found.paired, found.only_predicted) == (27, 3)
    assert found.measured is not None
    assert found.measured.mean == pytest.approx(0.2)


def test_how_much_and_on_what_grid_is_the_users_to_say(workspace: Workspace) -> None:
    watch(workspace, Scripted(moments(START_S, {"web": np.full(SECONDS, 0.2)})))
    found = live.compare(workspace, "lab", 60.0, 20.0)
    assert (found.steps, found.step_s, of(found, "web", "cpu_cores").paired) == (3, 20.0, 3)
    since = live.compare(workspace, "lab", since_ns=(START_S + 200) * NANOSECONDS)
    assert since.steps == 10
    for wrong in (float("nan"), 1.0, 1e12):
        with pytest.raises(InputError):
            live.compare(workspace, "lab", wrong)
    with pytest.raises(InputError):
        live.compare(workspace, "lab", 60.0, 0.0)


def test_without_readings_it_is_said_what_to_do(workspace: Workspace) -> None:
    with pytest.raises(TooLittleDataError, match="nothing was measured of lab") as told:
        live.compare(workspace, "lab")
    assert "--read" in told.value.mend
    with pytest.raises(TooLittleDataError, match="nothing was measured"):
        live.calibrate_live(workspace, "lab", now)
    watch(workspace, Scripted(moments(START_S, {"web": np.full(100, 0.2)})))
    with pytest.raises(TooLittleDataError, match="10 live readings of 10 s each: too little"):
        live.calibrate_live(workspace, "lab", now)


def costly(workspace: Workspace, first: int, last: int) -> np.ndarray:
    """What web uses where a request costs 12 ms, which isn't what was believed."""
    requests = workspace.metrics.read(SeriesQuery("lab", ("requests",), ("web",))).values["requests"][0]
    return 0.05 + 12e-3 * requests[first:last]


def longer(workspace: Workspace, seconds: int) -> None:
    """The lab's traffic, for longer, and not as even as it was: nothing is learned from what never changes."""
    from tests.service.lab import traffic

    made = traffic(seconds)
    wave = (1 + np.sin(np.arange(seconds) / 90))[:, None]
    columns = {name: (values * wave).astype(values.dtype) for name, values in made.columns.items()}
    workspace.metrics.write(MetricBatch("lab", 1.0, made.vms, made.start_ns, columns, made.one_sided, made.source))


def test_live_readings_calibrate_and_go_on_calibrating(workspace: Workspace) -> None:
    longer(workspace, 1800)
    watch(workspace, Scripted(moments(START_S, {"web": costly(workspace, 0, 900)})))
    found = live.calibrate_live(workspace, "lab", now)
    assert (found.version, found.calibration.usage, found.calibration.follows) == (1, "live readings", None)
    assert any("from live readings" in note for note in found.calibration.notes)
    web = found.calibration.of("web")
    assert web is not None
    fit = web.fits["cpu_cores"]
    assert fit.error_after is not None
    assert fit.error_before is not None
    assert fit.error_after < 0.1 < fit.error_before
    assert workspace.state.events("lab")[0].message == "Calibrated 1 of 2 VMs by live readings."
    calibrations.reemulate(workspace, "lab", now)
    watch(workspace, Scripted(moments(START_S + 900, {"web": costly(workspace, 900, 1800)})))
    later = live.calibrate_live(workspace, "lab", now)
    assert (later.version, later.calibration.follows) == (2, 1)
    again = live.calibrate_live(workspace, "lab", now)
    assert again.version == 2, "killed before stored time was emulated by it, it ends that first"
    calibrations.reemulate(workspace, "lab", now)
    with pytest.raises(TooLittleDataError, match="that nothing was learned from yet"):
        live.calibrate_live(workspace, "lab", now)


def test_what_was_learned_from_is_not_judged(workspace: Workspace) -> None:
    """A calibration that saw the answers must not be praised for knowing them."""
    longer(workspace, 1800)
    watch(workspace, Scripted(moments(START_S, {"web": costly(workspace, 0, 900)})))
    before = of(live.compare(workspace, "lab"), "web", "cpu_cores")
    live.calibrate_live(workspace, "lab", now)
    calibrations.reemulate(workspace, "lab", now)
    seen = live.compare(workspace, "lab")
    assert seen.learned_until_ns == (START_S + 900) * NANOSECONDS
    cpu = of(seen, "web", "cpu_cores")
    assert (cpu.paired, cpu.judged, cpu.error, cpu.coverage) == (90, 0, None, None)
    watch(workspace, Scripted(moments(START_S + 900, {"web": costly(workspace, 900, 1800)})))
    cpu = of(live.compare(workspace, "lab"), "web", "cpu_cores")
    assert (cpu.paired, cpu.judged) == (180, 90)
    assert cpu.error is not None
    assert before.error is not None
    assert cpu.error < 0.1 < before.error, "it predicts what it hadn't seen"


def test_the_job_of_a_server_calibrates_by_live_readings_and_emulates_anew(workspace: Workspace) -> None:
    longer(workspace, 900)
    watch(workspace, Scripted(moments(START_S, {"web": costly(workspace, 0, 900)})))
    asked = {
        "usage": "live:",
        "from_traffic": False,
        "update": False,
        "reset": False,
        "train_share": None,
        "measured_on": None,
        "called": "",
    }
    job = workspace.state.jobs.add("lab", JobKind.CALIBRATE, asked, "server", now())
    done = perform(workspace, job, now, lambda *_: None)
    assert done["usage"] == "live readings"
    assert done["rows"] == 1800
