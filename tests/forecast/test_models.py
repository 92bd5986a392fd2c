"""One suite over every model: what it forecasts, what it can't see, that it is stored and comes back the same."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from adumbra.forecast import registry
from adumbra.forecast.models.protocol import LEVELS, Covariates, Horizon, foresee, learn
from adumbra.forecast.models.seasonal_naive import SeasonalNaive, row_quantiles
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import Panel

NAN = float("nan")


def panel(values: np.ndarray, step_s: float = 1.0, resource: str = "cpu_cores") -> Panel:
    return Panel(resource, tuple(f"vm{i}" for i in range(len(values))), 1_700_000_000_000_000_000, step_s, values)


def noise(vms: int, steps: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).gamma(4.0, 0.25, size=(vms, steps))


def daily(vms: int, days: int, per_day: int = 96) -> np.ndarray:
    """A load with a daily wave, some of it by chance."""
    wave = 1.2 + np.sin(2 * np.pi * np.arange(days * per_day) / per_day)
    return wave * (1 + 0.2 * noise(vms, days * per_day))


def fit(name: str, history: Panel, most_ahead: int = 50, seed: int = 1):
    return registry.forecaster(name, most_ahead).fit(history, np.random.default_rng(seed))


EVERY = (*registry.NAMES, "ensemble", *registry.CLASSICAL)


@pytest.fixture(autouse=True)
def _its_library(request: pytest.FixtureRequest):
    """Classical models need the extra [statsforecast]."""
    if request.node.callspec.params.get("name") in registry.CLASSICAL if hasattr(request.node, "callspec") else False:
        pytest.importorskip("statsforecast")


@pytest.mark.parametrize("name", EVERY)
class TestEveryModel:
    def test_forecasts_are_monotone_quantiles_of_each_vm_on_the_grid_after_the_history(self, name: str):
        history = panel(noise(3, 400), step_s=5.0)
        got = fit(name, history).quantiles(history, Horizon(40, 4), (0.1, 0.5, 0.99))
        assert got.values.shape == (3, 10, 3)
        assert np.isfinite(got.values).all()
        assert (np.diff(got.values, axis=-1) >= 0).all()
        assert (got.values >= 0).all()
        assert (got.vms, got.step_s, got.levels) == (history.vms, 20.0, (0.1, 0.5, 0.99))
        assert got.start_ns == history.start_ns + 400 * 5_000_000_000

    def test_quantiles_of_plain_noise_are_those_of_the_noise(self, name: str):
        history, later = panel(noise(4, 600)), noise(4, 300, seed=6)
        got = fit(name, history).quantiles(history, Horizon(50), LEVELS).values
        for i, level in enumerate(LEVELS):
            below = (later[:, None, :] <= got[:, :, i, None]).mean()
            assert below == pytest.approx(level, abs=0.08), level

    def test_the_same_seed_gives_the_same_model(self, name: str):
        history = panel(noise(2, 300))
        first, again = (fit(name, history, seed=9).quantiles(history, Horizon(10), LEVELS).values for _ in range(2))
        np.testing.assert_array_equal(first, again)

    def test_it_goes_through_json_and_comes_back_the_same(self, name: str):
        history = panel(noise(2, 300))
        fitted = fit(name, history)
        again = registry.restore(json.loads(json.dumps(fitted.to_dict())))
        assert (again.name, again.about) == (fitted.name, fitted.about)
        np.testing.assert_array_equal(
            again.quantiles(history, Horizon(10), LEVELS).values, fitted.quantiles(history, Horizon(10), LEVELS).values
        )

    def test_the_share_short_falls_from_all_to_none_as_the_allocation_grows(self, name: str):
        history = panel(noise(2, 400))
        amounts = np.tile([0.0, 0.5, 1.0, 2.0, 50.0], (2, 1))
        short = fit(name, history).shortfall(history, Horizon(20), amounts)
        assert (np.diff(short, axis=1) <= 1e-12).all()
        assert (short[:, 0] > 0.97).all()
        assert (short[:, -1] < 0.001).all()
        np.testing.assert_allclose(short[:, 2], (noise(2, 20_000) > 1.0).mean(), atol=0.1)

    def test_a_vm_without_a_value_has_no_forecast_and_harms_no_other(self, name: str):
        values = noise(3, 400)
        values[1] = NAN
        history = panel(values)
        got = fit(name, history).quantiles(history, Horizon(10), LEVELS).values
        assert np.isnan(got[1]).all()
        assert np.isfinite(got[[0, 2]]).all()

    def test_gaps_are_borne(self, name: str):
        values = noise(2, 600)
        values[np.random.default_rng(1).random(values.shape) < 0.5] = NAN
        history = panel(values)
        assert np.isfinite(fit(name, history).quantiles(history, Horizon(30), LEVELS).values).all()

    def test_a_vm_that_came_later_is_forecast_too(self, name: str):
        fitted = fit(name, panel(noise(2, 400)))
        later = panel(noise(3, 200, seed=8))
        assert np.isfinite(fitted.quantiles(later, Horizon(10), LEVELS).values).all()

    def test_a_daily_wave_is_repeated(self, name: str):
        history = panel(daily(3, 7), step_s=900.0)
        got = fit(name, history, most_ahead=96).quantiles(history, Horizon(96), (0.5,)).values[:, :, 0]
        true = daily(3, 8)[:, -96:]
        assert np.corrcoef(got.ravel(), true.ravel())[0, 1] > 0.9

    @pytest.mark.parametrize("level", [0.0, 3.0])
    def test_a_constant_is_forecast_to_stay(self, name: str, level: float):
        history = panel(np.full((2, 400), level))
        got = fit(name, history).quantiles(history, Horizon(20), LEVELS).values
        np.testing.assert_allclose(got, level, atol=0.02)

    def test_far_beyond_what_was_learned_it_still_answers(self, name: str):
        history = panel(noise(2, 400))
        got = fit(name, history, most_ahead=40).quantiles(history, Horizon.thinned(604_800, 100), LEVELS)
        assert got.values.shape[1] <= 100
        assert np.isfinite(got.values).all()

    def test_too_little_says_how_much_it_takes(self, name: str):
        with pytest.raises(TooLittleDataError, match="observe for"):
            fit(name, panel(noise(1, 4)))


def gappy(vms: int, steps: int) -> np.ndarray:
    values = noise(vms, steps)
    values[np.random.default_rng(1).random(values.shape) < 0.5] = NAN
    return values


SPIKE = np.zeros((2, 300))
SPIKE[0, 150] = 1e6
HOSTILE = {
    "three steps": noise(2, 3),
    "fourteen steps": noise(2, 14),
    "constant": np.full((2, 300), 3.0),
    "all zero": np.zeros((2, 300)),
    "one spike": SPIKE,
    "no value": np.full((2, 300), NAN),
    "one value": np.where(np.arange(300) == 5, 1.0, np.full((2, 300), NAN)),
    "half of it gaps": gappy(2, 300),
    "one VM": noise(1, 300),
    "no VM": np.empty((0, 300)),
    "no step": np.empty((2, 0)),
    "huge": 1e12 * noise(2, 300),
    "tiny": 1e-12 * noise(2, 300),
    "silent at the end": np.where(np.arange(300) < 250, noise(2, 300), NAN),
    "new at the end": np.where(np.arange(300) >= 280, noise(2, 300), NAN),
}


REFUSED_BY_ALL = {"three steps", "no value", "one value", "no VM", "no step"}
REFUSED = {name: REFUSED_BY_ALL | {"fourteen steps", "new at the end"} for name in ("lightgbm", "ensemble")}


@pytest.mark.parametrize("name", [*EVERY, "fleet"])
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_input_has_an_answer_in_bounds_or_a_clear_refusal(name: str, what: str):
    values = HOSTILE[what]
    history = panel(values, 300.0)
    seen = np.isfinite(values).any(axis=1)
    if what in REFUSED.get(name, REFUSED_BY_ALL):
        with pytest.raises(TooLittleDataError, match="observe for"):
            fit(name, history)
        return
    got = fit(name, history).quantiles(history, Horizon(30, 3), LEVELS).values
    assert np.isfinite(got[seen]).all()
    assert np.isnan(got[~seen]).all()
    assert (got[seen] >= 0).all()
    assert (np.diff(got[seen], axis=-1) >= 0).all()
    assert got[seen].max() <= 12 * np.nanmax(values) + 1e-9


@pytest.mark.parametrize("name", [*registry.NAMES, "fleet"])
def test_ten_thousand_vms_are_forecast(name: str):
    history = panel(noise(10_000, 24), 3_600.0)
    got = fit(name, history, most_ahead=4).quantiles(history, Horizon(4, 2), LEVELS).values
    assert got.shape == (10_000, 2, len(LEVELS))
    assert np.isfinite(got).all()


@pytest.mark.parametrize("name", registry.CLASSICAL)
def test_models_that_fit_each_vm_by_itself_refuse_more_than_they_can_do_in_time(name: str):
    with pytest.raises(InputError, match="are more than 500"):
        fit(name, panel(noise(501, 20)))


@pytest.mark.parametrize("name", registry.CLASSICAL)
def test_without_its_library_a_classical_model_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "statsforecast", None)
    with pytest.raises(InputError, match=r"pip install .adumbra\[statsforecast\]"):
        fit(name, panel(noise(1, 50)))


def sized_fleet(vms: int, steps: int, seed: int) -> tuple[Panel, Covariates]:
    """Machines that use a third of their cores, whatever their size, and whose traffic is ten times their use."""
    rng = np.random.default_rng(seed)
    cores = 2.0 ** rng.integers(0, 6, vms)
    use = cores[:, None] / 3 * rng.gamma(8.0, 1 / 8, (vms, steps))
    return panel(use, 300.0), Covariates(cores, ("web",) * vms, {"rx_mbps": 10 * use})


@pytest.mark.parametrize("name", ["lightgbm", "fleet", "ensemble"])
def test_a_vm_that_nobody_measured_is_forecast_by_its_declared_size(name: str):
    history, known = sized_fleet(40, 300, 1)
    new, told = sized_fleet(30, 300, 2)
    unseen = panel(np.full_like(new.values, NAN), 300.0)
    fitted = learn(registry.forecaster(name, 24), history, np.random.default_rng(1), known)
    got = foresee(fitted, unseen, Horizon(12), told).values
    assert np.isfinite(got).all()
    assert told.declared is not None
    error = np.abs(np.log(got[:, 0, 2] / (told.declared / 3)))
    assert np.median(error) < 0.25
    assert np.isnan(fitted.quantiles(unseen, Horizon(12), LEVELS).values).all()
    without = foresee(fitted, unseen, Horizon(12), Covariates()).values
    assert np.isfinite(without).all()
    again = registry.restore(json.loads(json.dumps(fitted.to_dict())))
    np.testing.assert_array_equal(foresee(again, unseen, Horizon(12), told).values, got)


@pytest.mark.parametrize(
    ("days", "step_s", "want"),
    [(7, 900.0, "day"), (1.9, 900.0, "hour"), (0.005, 1.0, "")],
)
def test_a_season_is_taken_once_the_data_covers_it_twice(days: float, step_s: float, want: str):
    steps = round(days * 86_400 / step_s)
    wave = 2 + np.sin(2 * np.pi * np.arange(steps) * step_s / 86_400)
    fitted = SeasonalNaive().fit(panel(wave[None, :] + 0.01 * noise(1, steps), step_s), np.random.default_rng(0))
    assert fitted.season == want
    assert (f"the {want} before" if want else "no hour, day or week was covered twice") in fitted.about


def test_of_the_seasons_covered_the_one_that_repeats_best_is_taken():
    hours = np.arange(28 * 24)
    weekly = 1 + (hours // 24 % 7 < 5) * (1 + np.sin(2 * np.pi * hours / 24))
    fitted = SeasonalNaive().fit(panel(weekly[None, :], 3600.0), np.random.default_rng(0))
    assert fitted.season == "week"


def test_a_gap_a_season_ago_falls_back_on_what_was_last():
    values = daily(1, 4)
    values[0, -96:] = NAN
    history = panel(values, 900.0)
    assert np.isfinite(fit("seasonal-naive", history).quantiles(history, Horizon(96), LEVELS).values).all()


def test_row_quantiles_are_numpys_where_there_are_no_gaps_and_leave_gaps_out():
    values = noise(3, 50)
    np.testing.assert_allclose(row_quantiles(values, LEVELS), np.quantile(values, LEVELS, axis=1).T)
    values[0, ::2] = NAN
    np.testing.assert_allclose(row_quantiles(values, LEVELS)[0], np.nanquantile(values[0], LEVELS))
    assert np.isnan(row_quantiles(values[:, :0], LEVELS)).all()
    assert np.isnan(row_quantiles(np.array([[1.0, NAN]]), (0.5,), least=2)).all()


def test_a_horizon_of_nothing_is_refused():
    for steps, stride in ((0, 1), (-1, 1), (10, 0), (10**9, 1)):
        with pytest.raises(InputError):
            Horizon(steps, stride)


@pytest.mark.parametrize(
    "plain",
    [{}, {"name": "oracle"}, {"name": "seasonal-naive"}, {"name": "lightgbm", "boosters": []}],
)
def test_what_is_no_stored_model_is_refused(plain: dict[str, object]):
    with pytest.raises((KeyError, ValueError)):
        registry.restore(plain)


def test_a_name_that_is_no_model_is_refused():
    with pytest.raises(KeyError):
        registry.forecaster("oracle", 10)
