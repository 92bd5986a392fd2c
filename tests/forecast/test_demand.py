"""From panels to demands: little history is called little, more of it narrows, and nothing bad in it harms the rest."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from adumbra.forecast.confidence import Evidence, confidence
from adumbra.forecast.demand import NEED_POINT, Known, Training, demand, demand_given, forecast, train
from adumbra.forecast.models.lightgbm import LightGbm
from adumbra.forecast.models.protocol import Covariates
from adumbra.forecast.series import MAX_STEPS
from adumbra.schema.errors import InputError, StoreError, TooLittleDataError
from adumbra.schema.records import Panel
from adumbra.schema.sizing import RESOURCES, Confidence, Demand, SizingPolicy

pytestmark = pytest.mark.usefixtures("few_examples")

NAN = float("nan")
WEEK, DAY = 604_800.0, 86_400.0


def quiet(_share: float, _what: str) -> None:
    """Progress that nobody watches."""


def panel(values: np.ndarray, step_s: float = 1.0, resource: str = "cpu_cores") -> Panel:
    return Panel(resource, tuple(f"vm{i}" for i in range(len(values))), 1_700_000_000_000_000_000, step_s, values)


def noise(vms: int, steps: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).gamma(4.0, 0.25, size=(vms, steps))


def daily(vms: int, days: int, per_day: int = 96) -> np.ndarray:
    wave = 1.2 + np.sin(2 * np.pi * np.arange(days * per_day) / per_day)
    return wave * (1 + 0.1 * noise(vms, days * per_day))


def cpu(values: np.ndarray, step_s: float = 1.0) -> dict[str, Panel]:
    return {"cpu_cores": panel(values, step_s)}


def ask(panels: dict[str, Panel], known: Known | None = None, **policy: float) -> tuple[Demand, ...]:
    return demand_given(train(panels, 1, quiet), panels, SizingPolicy(**policy), known or Known())


@pytest.fixture(scope="module")
def quarter_hour(few_examples: None) -> tuple[dict[str, Panel], Training]:
    """15 minutes of four VMs, all resources, at 1 s."""
    load = noise(4, 900) * np.array([[0.1], [0.3], [0.5], [1.0]])
    panels = {
        "cpu_cores": panel(load),
        "memory_gb": panel(1.0 + 0.1 * np.maximum.accumulate(load, axis=1), resource="memory_gb"),
        "bandwidth_mbps": panel(20 * load, resource="bandwidth_mbps"),
        "storage_gb": panel(8 + 1e-6 * np.cumsum(load, axis=1), resource="storage_gb"),
    }
    return panels, train(panels, 1, quiet)


class TestAQuarterOfAnHour:
    def test_is_called_little_in_words_and_numbers(self, quarter_hour: tuple[dict[str, Panel], Training]):
        panels, training = quarter_hour
        for each in demand(training, panels, SizingPolicy(), {}, {}):
            assert each.confidence is Confidence.LOW
            told = " | ".join(each.reasons)
            assert "learned from 15 min; the horizon is 7 d: it can't show the pattern of a day or a week" in told
            assert "on 200 measured machines" in told
            assert "the forecast could be tested 1 min 30 s ahead" in told
            assert "on 6 origins of 4 VMs" in told

    def test_gives_wide_estimates_of_every_resource(self, quarter_hour: tuple[dict[str, Panel], Training]):
        panels, training = quarter_hour
        for each in demand(training, panels, SizingPolicy()):
            assert tuple(each.need) == RESOURCES
            for name, points in each.estimate.items():
                assert 0 < points.p50 <= points.p90 <= points.p99
                assert each.need[name] == getattr(points, NEED_POINT)
            for name in ("cpu_cores", "memory_gb", "bandwidth_mbps"):
                assert each.estimate[name].p99 > 4 * each.estimate[name].p50

    def test_is_narrower_for_the_next_minutes_than_for_the_next_week(self, quarter_hour: tuple[dict[str, Panel], Training]):
        panels, training = quarter_hour
        widths = []
        for horizon_s in (60.0, 3_600.0, WEEK):
            points = demand(training, panels, SizingPolicy(horizon_s=horizon_s))[2].estimate["cpu_cores"]
            widths.append(points.p90 / points.p50)
        assert widths == sorted(widths)
        assert widths[-1] > 2 * widths[0]

    def test_a_larger_shortfall_needs_no_more(self, quarter_hour: tuple[dict[str, Panel], Training]):
        panels, training = quarter_hour
        for horizon_s in (60.0, WEEK):
            for name in ("cpu_cores", "bandwidth_mbps"):
                needs = [
                    demand(training, panels, SizingPolicy(shortfall=share, horizon_s=horizon_s))[1].need[name]
                    for share in (0.001, 0.01, 0.05, 0.3)
                ]
                assert needs == sorted(needs, reverse=True)

    def test_what_the_emulation_may_be_wrong_by_widens_and_is_said(self, quarter_hour: tuple[dict[str, Panel], Training]):
        panels, training = quarter_hour
        spread = {"cpu_cores": np.array([0.0, 0.3, 0.7, 1.5])}
        sure = demand(training, panels, SizingPolicy())
        unsure = demand(training, panels, SizingPolicy(), spread)
        factors = [b.need["cpu_cores"] / a.need["cpu_cores"] for a, b in zip(sure, unsure, strict=True)]
        assert factors[0] == pytest.approx(1.0)
        assert factors == sorted(factors)
        for a, b in zip(sure, unsure, strict=True):
            assert b.estimate["cpu_cores"].p50 == pytest.approx(a.estimate["cpu_cores"].p50)
            assert b.estimate["memory_gb"] == a.estimate["memory_gb"]
        assert any("good to a factor of 2: only measured use" in reason for reason in unsure[2].reasons)
        assert not any("simulated" in reason for reason in unsure[0].reasons)

    def test_other_machines_do_not_carry_a_size_beyond_the_machine_that_was_emulated(
        self, quarter_hour: tuple[dict[str, Panel], Training]
    ):
        panels, training = quarter_hour
        free = demand(training, panels, SizingPolicy())[0]
        bound = demand_given(training, panels, SizingPolicy(), Known(capacity={"cpu_cores": np.full(4, 0.6)}))[0]
        assert free.need["cpu_cores"] > 0.6
        assert bound.need["cpu_cores"] == pytest.approx(0.6)
        assert any("not carried beyond the size of this machine" in reason for reason in bound.reasons)
        tiny = demand_given(training, panels, SizingPolicy(), Known(capacity={"cpu_cores": np.full(4, 0.001)}))[0]
        peak = panels["cpu_cores"].values[0].max()
        assert 0.5 * peak < tiny.need["cpu_cores"] < 2 * peak  # but what was seen itself stands

    def test_the_declared_type_travels_along(self, quarter_hour: tuple[dict[str, Panel], Training]):
        panels, training = quarter_hour
        found = demand(training, panels, SizingPolicy(), None, {"vm1": "m7i.large"})
        assert [each.declared_type for each in found] == [None, "m7i.large", None, None]

    def test_a_forecast_of_a_day_is_as_unsure_as_it_should_be(self, quarter_hour: tuple[dict[str, Panel], Training]):
        panels, training = quarter_hour
        found = forecast(training, panels, DAY, 48)
        assert set(found) == set(RESOURCES)
        for name, quantiles in found.items():
            assert quantiles.values.shape[2] == len(quantiles.levels)
            assert 40 <= quantiles.values.shape[1] <= 48
            assert (np.diff(quantiles.values, axis=-1) >= 0).all()
            if name in {"cpu_cores", "bandwidth_mbps"}:
                width = quantiles.values[..., -1] - quantiles.values[..., 0]
                assert (width[:, -1] > 2 * width[:, 0]).all()
        level = found["storage_gb"].values
        assert (level >= panels["storage_gb"].values[:, -1:, None] - 1e-9).all()
        assert (np.diff(level[..., 1], axis=1) >= 0).all()

    def test_it_goes_to_plain_data_and_bytes_and_comes_back_to_the_same_sizes(
        self, quarter_hour: tuple[dict[str, Panel], Training]
    ):
        panels, training = quarter_hour
        want = demand(training, panels, SizingPolicy(), {"cpu_cores": np.full(4, 0.7)})
        plain = json.loads(json.dumps(training.to_dict(), allow_nan=False))
        for again in (Training.from_dict(plain), Training.from_bytes(training.to_bytes())):
            got = demand(again, panels, SizingPolicy(), {"cpu_cores": np.full(4, 0.7)})
            assert again.summary() == training.summary()
            for a, b in zip(want, got, strict=True):
                assert a.reasons == b.reasons
                for name in RESOURCES:
                    assert b.need[name] == pytest.approx(a.need[name], rel=1e-3)

    def test_the_summary_says_which_model_and_why(self, quarter_hour: tuple[dict[str, Panel], Training]):
        _, training = quarter_hour
        summary = training.summary()
        json.dumps(summary, allow_nan=False)
        assert [entry["resource"] for entry in summary["resources"]] == list(RESOURCES)
        for entry in summary["resources"]:
            assert entry["model"] in {"seasonal-naive", "lightgbm", "ensemble"}
            assert set(entry["scores"]) == {"seasonal-naive", "lightgbm", "ensemble"}
            assert (entry["steps"], entry["origins"], entry["horizon_s"]) == (900, 6, 90.0)
            assert set(entry["calibrated_coverage"]) == {"80", "95"}
            assert "pinball loss" in entry["why"]
        assert training.learned_s == 900.0

    def test_training_again_is_the_same_to_the_last_bit_and_another_order_of_resources_changes_nothing(
        self, quarter_hour: tuple[dict[str, Panel], Training]
    ):
        panels, training = quarter_hour
        turned = {name: panels[name] for name in ("memory_gb", "cpu_cores")}
        for again in train(turned, 1, quiet).to_dict()["resources"]:
            assert again in training.to_dict()["resources"]


def test_weeks_of_a_regular_day_are_trusted_and_narrow():
    values = daily(3, 28, 48)
    (first, *_) = ask(cpu(values, 1800.0), horizon_s=DAY)
    points = first.estimate["cpu_cores"]
    assert first.confidence in {Confidence.MEDIUM, Confidence.HIGH}
    assert points.p99 < 1.5 * points.p50
    assert points.p90 == pytest.approx(np.quantile(values[0], 0.99), rel=0.15)
    assert not any("measured machines" in reason for reason in first.reasons)  # its own history answers for it


def test_need_holds_what_came_next_about_as_often_as_it_says():
    """30 machines with a daily wave and chance: sized for the next day at 1 %, and most are short no more than that."""
    whole = daily(30, 16, 96) * np.random.default_rng(3).uniform(0.2, 3, size=(30, 1))
    found = ask(cpu(whole[:, : 15 * 96], 900.0), horizon_s=DAY)
    need = np.array([each.need["cpu_cores"] for each in found])
    short = (whole[:, 15 * 96 :] > need[:, None]).mean(axis=1)
    assert (short <= 0.02).mean() >= 0.8  # one step of 96 is 1.04 %
    assert short.mean() <= 0.01
    assert (need / np.quantile(whole, 0.99, axis=1)).mean() < 1.3


def test_storage_is_what_is_there_and_its_growth_over_the_horizon():
    steps = np.arange(20 * 48)
    values = 100 + steps[None, :] / 48 * np.array([[1.0], [0.0]])  # 1 GB a day, and none
    (grows, stays) = ask({"storage_gb": panel(values, 1800.0, "storage_gb")}, horizon_s=DAY)
    assert grows.estimate["storage_gb"].p50 == pytest.approx(values[0, -1] + 1.0, abs=0.1)
    assert grows.need["storage_gb"] < values[0, -1] + 2.0
    assert stays.need["storage_gb"] == pytest.approx(100.0, abs=0.2)


def test_memory_is_never_sized_below_what_it_once_held():
    values = 2.0 + 0.01 * noise(2, 2000)
    values[0, 700] = 6.0
    first, second = ask({"memory_gb": panel(values, 300.0, "memory_gb")}, horizon_s=3_600.0)
    assert first.need["memory_gb"] >= 6.0
    assert second.need["memory_gb"] < 4.0


def blank(vm: int) -> np.ndarray:
    values = noise(3, 150)
    values[vm] = NAN
    return values


def spiked() -> np.ndarray:
    values = np.full((2, 150), 0.2)
    values[0, 70] = 40.0
    return values


def holed() -> np.ndarray:
    values = noise(2, 200)
    values[np.random.default_rng(2).random(values.shape) < 0.5] = NAN
    return values


@pytest.mark.parametrize(
    ("story", "values"),
    [
        ("constant", np.full((2, 150), 2.0)),
        ("all zero", np.zeros((2, 150))),
        ("one spike", spiked()),
        ("50 % gaps", holed()),
        ("one VM", noise(1, 150)),
        ("a VM that was never seen", blank(1)),
        ("the least there may be", noise(2, 12)),
    ],
)
def test_bad_histories_get_an_answer_of_honest_width(story: str, values: np.ndarray):
    for resource in RESOURCES:
        history = np.where(np.isfinite(values), 5 + np.nancumsum(values, axis=1) * 1e-4, NAN)
        found = ask({resource: panel(history if resource == "storage_gb" else values, 1.0, resource)})
        for each in found:
            points = each.estimate[resource]
            assert 0 < points.p50 <= points.p90 <= points.p99 < 1e6, story
            assert points.p99 > points.p50
            assert each.confidence is Confidence.LOW
            assert all(reason and "nan" not in reason.lower().split() for reason in each.reasons)


def test_a_vm_that_was_never_seen_takes_the_others_spread_and_says_so():
    seen, unseen, other = ask(cpu(blank(1)))
    assert any("fewer than 12 steps of its cpu_cores were seen" in reason for reason in unseen.reasons)
    assert unseen.reasons[0].startswith("learned from nothing of its own")
    largest = max(seen.estimate["cpu_cores"].p99, other.estimate["cpu_cores"].p99)
    assert unseen.estimate["cpu_cores"].p99 == pytest.approx(largest)
    assert not any("fewer than" in reason for reason in seen.reasons)


@pytest.mark.parametrize(
    "values",
    [np.empty((2, 0)), noise(2, 11), np.full((2, 500), NAN), np.where(np.arange(500) < 5, 1.0, NAN)[None, :]],
)
def test_too_little_is_refused_with_what_to_do(values: np.ndarray):
    with pytest.raises(TooLittleDataError, match="observe for at least 12 intervals, 12 s"):
        train(cpu(values), 1, quiet)


def test_a_resource_without_data_is_left_out_and_named():
    values = noise(2, 200)
    panels = {**cpu(values), "storage_gb": panel(np.full((2, 200), NAN), resource="storage_gb")}
    training = train(panels, 1, quiet)
    assert training.skipped == {"storage_gb": "0 of 200 steps of 1 s hold a value"}
    (first, _) = demand(training, panels, SizingPolicy())
    assert tuple(first.need) == ("cpu_cores",)
    assert any("storage_gb was not learned" in reason for reason in first.reasons)


def test_500_vms_are_sized_in_one_go():
    values = noise(500, 60) * np.random.default_rng(1).uniform(0.1, 2.0, size=(500, 1))
    found = ask(cpu(values))
    assert len(found) == 500
    assert all(each.need["cpu_cores"] > 0 for each in found)


def test_progress_runs_from_nothing_to_all():
    told: list[tuple[float, str]] = []
    train(cpu(noise(1, 60)), 1, lambda share, what: told.append((share, what)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert any("cpu_cores" in what for _, what in told)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {}, "nothing to learn from"),
        (lambda p: {"memory_gb": p["cpu_cores"]}, "panel given for memory_gb"),
        (lambda p: {**p, "memory_gb": panel(noise(3, 100), resource="memory_gb")}, "panel given for memory_gb"),
        (lambda p: {"gpu": p["cpu_cores"]}, "no resource 'gpu'"),
    ],
)
def test_panels_that_do_not_fit_together_are_refused(change, message: str):
    with pytest.raises(InputError, match=message):
        train(change(cpu(noise(2, 100))), 1, quiet)


def test_questions_that_make_no_sense_are_refused():
    panels = cpu(noise(2, 100))
    training = train(panels, 1, quiet)
    for policy in (SizingPolicy(shortfall=0.0), SizingPolicy(shortfall=0.9), SizingPolicy(horizon_s=0.0)):
        with pytest.raises(InputError):
            demand(training, panels, policy)
    with pytest.raises(InputError, match="learned in steps of 1 s, and 5 s are given"):
        demand(training, cpu(noise(2, 100), 5.0), SizingPolicy())
    with pytest.raises(TooLittleDataError):
        demand(training, cpu(np.full((2, 100), NAN)), SizingPolicy())
    for horizon_s, points in ((0.0, 10), (10.0, 0), (10.0, 10**6)):
        with pytest.raises(InputError):
            forecast(training, panels, horizon_s, points)


@pytest.mark.parametrize("stored", [b"", b"junk", b"x\x9c\x03\x00\x00\x00\x00\x01"])
def test_what_is_no_training_is_refused_and_says_to_train_again(stored: bytes):
    with pytest.raises(StoreError, match="train again"):
        Training.from_bytes(stored)


@pytest.mark.parametrize("plain", [{}, {"format": 99}, {"format": 1, "seed": 1, "resources": [{}], "skipped": {}}])
def test_plain_data_that_is_no_training_is_refused(plain: dict[str, object]):
    with pytest.raises(StoreError, match="train again"):
        Training.from_dict(plain)


def evidence(**change: float | bool) -> Evidence:
    plain = {
        "learned_s": 21 * DAY, "horizon_s": WEEK, "season_s": WEEK, "origins": 6, "seen": 1.0, "uncovered": -0.1,
        "spread": 0.0, "borrowed": False,
    }  # fmt: skip
    return Evidence(**{**plain, **change})


@pytest.mark.parametrize(
    ("change", "want"),
    [
        ({}, Confidence.HIGH),
        ({"learned_s": 900.0}, Confidence.LOW),
        ({"learned_s": 0.9 * DAY}, Confidence.LOW),
        ({"learned_s": DAY}, Confidence.MEDIUM),
        ({"learned_s": 13 * DAY}, Confidence.MEDIUM),
        ({"learned_s": 14 * DAY}, Confidence.HIGH),
        ({"learned_s": 9 * 3600.0, "horizon_s": 3600.0, "season_s": 3600.0}, Confidence.HIGH),
        ({"learned_s": 1800.0, "horizon_s": 3600.0, "season_s": 3600.0}, Confidence.LOW),
        ({"origins": 0}, Confidence.LOW),
        ({"seen": 0.4}, Confidence.LOW),
        ({"seen": 0.7}, Confidence.MEDIUM),
        ({"spread": 0.7}, Confidence.LOW),
        ({"spread": 0.2}, Confidence.MEDIUM),
        ({"uncovered": 0.02}, Confidence.MEDIUM),
        ({"borrowed": True}, Confidence.LOW),
    ],
)
def test_confidence_goes_by_one_table(change: dict[str, float], want: Confidence):
    assert confidence(evidence(**change)) is want


def test_the_front_loads_no_heavy_library():
    code = (
        "import sys, adumbra.forecast.demand as d; assert not {'lightgbm', 'duckdb', 'numba', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_working_history_is_no_longer_than_it_need_be():
    assert MAX_STEPS == 3_000


def test_what_is_told_beside_use_reaches_the_models_and_must_be_of_as_many_vms():
    """Models that learned from sizes and roles forecast without them all the same, and the other way round."""
    panels = cpu(noise(3, 120))
    beside = {"cpu_cores": Covariates(np.array([2.0, 4.0, NAN]), ("web", "db", ""))}
    for told, without in ((train(panels, 1, quiet, covariates=beside), {}), (train(panels, 1, quiet), beside)):
        assert np.isfinite(forecast(told, panels, 30.0, 5, covariates=without)["cpu_cores"].values).all()
    model = LightGbm(10).learn(panels["cpu_cores"], np.random.default_rng(1), beside["cpu_cores"])
    assert model.plan.declared
    assert model.plan.roles
    with pytest.raises(InputError, match="isn't of its 3 VMs"):
        train(panels, 1, quiet, covariates={"cpu_cores": Covariates(np.ones(2))})
