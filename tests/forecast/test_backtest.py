"""The rolling origin: that nothing later is seen, that the better model is picked and said why, that scores are right."""

from __future__ import annotations

import numpy as np
import pytest

from adumbra.forecast import registry
from adumbra.forecast.backtest import ORIGINS, Layout, Verdict, WindowErrors, backtest, lay_out, pick, rng_for, run
from adumbra.forecast.models.protocol import LEVELS, Horizon, forecast_of
from adumbra.forecast.scores import Cases, Scores, pinball, score
from adumbra.schema.errors import TooLittleDataError
from adumbra.schema.records import Panel

PLANTED = 123_456.0


def panel(values: np.ndarray, step_s: float = 1.0, resource: str = "cpu_cores") -> Panel:
    return Panel(resource, tuple(f"vm{i}" for i in range(len(values))), 1_700_000_000_000_000_000, step_s, values)


def noise(vms: int, steps: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).gamma(4.0, 0.25, size=(vms, steps))


def quiet(_share: float, _what: str) -> None:
    """Progress that nobody watches."""


def judge(history: Panel, seed: int = 1) -> Verdict:
    reach = max(1, history.values.shape[1] // 10)
    return backtest(history, [registry.forecaster(name, reach) for name in registry.NAMES], seed, quiet)


class Fixed:
    """A model that foresees the same whatever it is shown, and keeps what it was shown."""

    def __init__(self, name: str, level: float) -> None:
        self.name, self.about, self.level = name, "it is fixed", level
        self.shown: list[Panel] = []

    def fit(self, history: Panel, rng: np.random.Generator) -> Fixed:
        self.shown.append(history)
        return self

    def quantiles(self, recent: Panel, horizon: Horizon, levels: tuple[float, ...]):
        self.shown.append(recent)
        values = np.full((len(recent.vms), len(horizon.ahead), len(levels)), self.level)
        return forecast_of(recent, horizon, levels, values)

    def shortfall(self, recent: Panel, horizon: Horizon, allocations: np.ndarray) -> np.ndarray:
        return (allocations < self.level).astype(float)

    def to_dict(self) -> dict[str, object]:
        return {"name": self.name}


def test_the_horizons_follow_each_other_to_the_end_without_overlap():
    layout = lay_out(900)
    assert layout is not None
    assert layout.origins == (360, 450, 540, 630, 720, 810)
    assert layout.fitted_at == (360, 360, 360, 630, 630, 630)
    assert layout.horizon.steps == 90
    assert lay_out(11) is None
    for steps in range(12, 200):
        found = lay_out(steps)
        assert found is not None
        assert len(found.origins) == ORIGINS
        assert found.origins[-1] + found.horizon.steps == steps
        assert all(at <= origin for at, origin in zip(found.fitted_at, found.origins, strict=True))


@pytest.mark.parametrize("name", registry.NAMES)
def test_a_planted_future_is_not_found(name: str):
    """From each origin the forecast is the same, to the last bit, whatever stands after the origin."""
    honest = noise(3, 400)
    layout = lay_out(400)
    assert layout is not None
    model = registry.forecaster(name, layout.horizon.steps)
    rows = np.arange(3)
    for origin, at in zip(layout.origins, layout.fitted_at, strict=True):
        planted = honest.copy()
        planted[:, origin:] = PLANTED
        one = Layout((origin,), (at,), layout.horizon)
        forecasts = [run(panel(values), model, one, rows, 3).quantiles for values in (honest, planted)]
        np.testing.assert_array_equal(forecasts[0], forecasts[1])


def test_a_model_that_goes_looking_finds_nothing_of_later_in_what_it_is_handed():
    values = noise(2, 300)
    layout = lay_out(300)
    assert layout is not None
    spy = Fixed("spy", 1.0)
    run(panel(values), spy, layout, np.arange(2), 1)
    handed = [shown.values.shape[1] for shown in spy.shown]
    assert max(handed) == layout.origins[-1]
    for shown in spy.shown:
        known = shown.values.shape[1]
        assert known in {*layout.origins, *layout.fitted_at}
        np.testing.assert_array_equal(shown.values, values[:, :known])
        behind = shown.values if shown.values.base is None else shown.values.base
        assert behind.size <= values[:, :known].size  # nor is there more behind the view that it was given


def test_the_one_that_loses_less_at_the_upper_levels_is_picked_and_the_reason_has_the_numbers():
    history = panel(np.full((2, 300), 5.0))
    verdict = backtest(history, [Fixed("far", 9.0), Fixed("near", 5.5)], 1, quiet)
    assert verdict.chosen == "near"
    assert verdict.scores["near"].upper < verdict.scores["far"].upper
    assert "near was chosen: its pinball loss was 0.005333, far's 0.04267, on 6 origins of 2 VMs" in verdict.why


def scored(upper: float) -> Scores:
    return Scores({}, upper, None, None, {}, {}, 1)


@pytest.mark.parametrize(
    ("found", "want", "told"),
    [
        ({"seasonal-naive": 1.0, "lightgbm": 0.9}, "lightgbm", ()),
        ({"seasonal-naive": 1.0, "lightgbm": 1.1}, "seasonal-naive", ()),
        ({"seasonal-naive": 1.0, "lightgbm": 0.9, "gru": 0.8}, "gru", ()),
        ({"seasonal-naive": 1.0, "lightgbm": 0.9, "gru": 0.95}, "lightgbm", ("network is not used", "beat LightGBM by 1 %")),
        ({"seasonal-naive": 0.9, "lightgbm": 1.0, "gru": 0.95}, "seasonal-naive", ("network is not used", "seasonal naive")),
        ({"seasonal-naive": 1.0, "lightgbm": 0.9, "gru": 0.895}, "lightgbm", ("its 0.895 doesn't beat LightGBM",)),
        (
            {"seasonal-naive": 1.0, "lightgbm": 0.9, "gru": 0.8, "ensemble": 0.7},
            "ensemble",
            ("recurrent network is not used: the ensemble loses less",),
        ),
        ({"seasonal-naive": 1.0, "lightgbm": None, "gru": 0.8}, "gru", ()),
    ],
)  # fmt: skip
def test_a_model_serves_only_where_it_beats_the_baseline_and_lightgbm(
    found: dict[str, float | None], want: str, told: tuple[str, ...]
):
    chosen, refused = pick({name: scored(upper) if upper is not None else None for name, upper in found.items()})
    assert chosen == want
    assert all(each in refused for each in told)
    assert bool(refused) == bool(told)


def test_an_ensemble_that_wins_is_fitted_with_the_weights_of_the_back_test_and_restored():
    """Two members that err on either side, each by a half: together they are right."""
    history = panel(np.full((2, 300), 5.0))
    verdict = backtest(history, [Fixed("low", 4.0), Fixed("high", 6.5)], 1, quiet)
    assert verdict.chosen == "ensemble"
    assert verdict.weights == pytest.approx({"low": 0.6, "high": 0.4}, abs=0.05)
    assert "the ensemble was chosen" in verdict.why


def test_how_often_intervals_held_is_told_of_each_vm():
    verdict = judge(panel(noise(3, 400)))
    assert [(held.vm, held.asked) for held in verdict.per_vm] == [(f"vm{i}", asked) for asked in (0.8, 0.95) for i in range(3)]
    for held in verdict.per_vm:
        assert held.n == 5 * 40
        assert held.held == pytest.approx(held.asked, abs=0.12)


def test_the_baseline_is_kept_where_the_other_is_no_better():
    history = panel(np.full((2, 300), 5.0))
    verdict = backtest(history, [Fixed("base", 5.5), Fixed("same", 5.5)], 1, quiet)
    assert verdict.chosen == "base"
    assert "base was kept" in verdict.why


def test_the_baseline_is_kept_where_the_other_cannot_be_scored():
    verdict = judge(panel(noise(1, 40)))
    assert verdict.chosen == "seasonal-naive"
    assert verdict.scores["lightgbm"] is None
    assert "LightGBM could not be scored (LightGBM can't learn cpu_cores" in verdict.why


def test_lightgbm_wins_where_there_is_something_to_learn():
    """Use that carries on where it was, which the distribution of all that was last doesn't know."""
    rng = np.random.default_rng(4)
    walk = np.exp(np.cumsum(0.05 * rng.normal(size=(4, 1200)), axis=1) * np.where(np.arange(1200) % 400 < 200, 1, -1))
    verdict = judge(panel(walk))
    assert verdict.chosen == "lightgbm"
    assert verdict.scores["lightgbm"].upper < verdict.scores["seasonal-naive"].upper


def test_a_history_too_short_to_score_says_so_and_promises_nothing():
    verdict = judge(panel(noise(2, 10)))
    assert verdict.origins == 0
    assert "taken without a test" in verdict.why
    assert not any(offset.promised for offset in verdict.calibration.offsets)
    assert not verdict.window.bound(0.01, 0.9).promised


def test_the_same_seed_gives_the_same_verdict_and_progress_runs_from_nothing_to_all():
    history = panel(noise(2, 300))
    told: list[float] = []
    models = [registry.forecaster(name, 30) for name in registry.NAMES]
    first = backtest(history, models, 3, lambda share, _what: told.append(share))
    again = backtest(history, models, 3, quiet)
    assert (first.why, first.scores, first.calibration, first.coverage) == (
        again.why, again.scores, again.calibration, again.coverage,
    )  # fmt: skip
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0.0, 1.0)


def test_the_calibrated_interval_holds_on_new_data_within_binomial_bounds():
    """Trained on one stretch of stationary noise, scored on the next: 80 and 95 % hold as often as they say."""
    rng = np.random.default_rng(11)
    whole = rng.gamma(2.0, 0.5, size=(20, 800)) * rng.uniform(0.5, 3.0, size=(20, 1))
    history, later = panel(whole[:, :500]), whole[:, 500:]
    verdict = judge(history)
    model = registry.forecaster(verdict.chosen, 50).fit(history, rng_for(1, "cpu_cores", "final", 500))
    scale = history.values.mean(axis=1)
    forecast = verdict.calibration.apply(model.quantiles(history, Horizon(50), LEVELS).values, scale)
    for low, high, promised in ((1, 3, 0.8), (0, 5, 0.95)):
        inside = (later[:, None, :] >= forecast[:, :, low, None]) & (later[:, None, :] <= forecast[:, :, high, None])
        slack = 4 * np.sqrt(promised * (1 - promised) / (20 * 50))
        assert promised - slack <= inside.mean() <= promised + slack + 2 / verdict.calibration.groups
    assert verdict.coverage["80"] == pytest.approx(0.8, abs=0.06)
    assert verdict.coverage["95"] == pytest.approx(0.95, abs=0.04)


def test_window_errors_are_read_off_between_the_shares_and_promised_by_their_number():
    errors = np.stack([np.arange(20.0), np.arange(20.0) + 10], axis=1)
    window = WindowErrors((0.01, 0.1), errors, 20)
    assert window.bound(0.01, 0.9).value == 18.0
    assert window.bound(0.1, 0.9).value == 28.0
    assert window.bound(10**-1.5, 0.9).value == pytest.approx(23.0)
    assert not window.bound(0.01, 0.99).promised
    again = WindowErrors.from_dict(window.to_dict())
    np.testing.assert_array_equal(again.errors, errors)


def test_idle_machines_do_not_make_forecasts_of_busy_ones_look_good():
    values = np.concatenate([noise(2, 300), np.zeros((30, 300))])
    verdict = judge(panel(values))
    assert verdict.window.groups == 2 * ORIGINS


@pytest.mark.parametrize(
    ("actual", "forecast", "level", "want"),
    [(10.0, 8.0, 0.9, 1.8), (8.0, 10.0, 0.9, 0.2), (8.0, 10.0, 0.5, 1.0), (3.0, 3.0, 0.99, 0.0)],
)
def test_pinball_loss(actual: float, forecast: float, level: float, want: float):
    assert pinball(np.array(actual), np.array(forecast), level) == pytest.approx(want)


def test_scores_by_hand():
    quantiles = np.array([[0.0, 1.0, 2.0, 4.0, 4.0, 5.0, 6.0], [0.0, 1.0, 2.0, 4.0, 4.0, 5.0, 6.0]])
    cases = Cases(LEVELS, np.array([3.0, 5.5]), quantiles, np.array([2.0, 2.0]), np.array([0.5, 1.0]))
    found = score(cases)
    assert found is not None
    assert found.coverage == {"80": 0.5, "95": 0.5}
    assert found.width == {"80": 1.5, "95": 2.5}
    assert found.mase == pytest.approx((1 / 0.5 + 3.5 / 1.0) / 2)
    losses = [(0.5 + 1.75), (0.1 + 1.35), (0.05 + 1.425), (0.03 + 0.005)]
    assert found.wql == pytest.approx(np.mean([2 * loss / 8.5 for loss in losses]))
    assert found.upper == pytest.approx(np.mean([loss / 2 / 2 for loss in losses[1:]]))


def test_nothing_to_score_and_nothing_to_divide_by_are_none_and_not_a_number():
    assert score(Cases(LEVELS, np.empty(0), np.empty((0, 7)), np.empty(0), np.empty(0))) is None
    idle = score(Cases(LEVELS, np.zeros(3), np.zeros((3, 7)), np.ones(3), np.zeros(3)))
    assert idle is not None
    assert (idle.wql, idle.mase, idle.upper) == (None, None, 0.0)


def test_a_model_that_always_fails_leaves_the_baseline_alone():
    class Failing(Fixed):
        def fit(self, history: Panel, rng: np.random.Generator) -> Fixed:
            raise TooLittleDataError("it never learns")

    verdict = backtest(panel(noise(2, 200)), [Fixed("base", 1.0), Failing("other", 1.0)], 1, quiet)
    assert verdict.chosen == "base"
    assert "other could not be scored (it never learns)" in verdict.why
