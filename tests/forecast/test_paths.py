"""Sample paths: right at each step, as connected as the past was, and so right for a window's peak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from adumbra.forecast.models.protocol import Horizon, forecast_of
from adumbra.forecast.paths import PATH_LEVELS, normal_scores, paths, window_needs
from adumbra.forecast.series import Statistic
from adumbra.forecast.window import Need
from adumbra.schema.errors import InputError
from adumbra.schema.records import Panel

PEAK = Need(Statistic.PEAK, 0.01)


def panel(values: np.ndarray, step_s: float = 3600.0) -> Panel:
    return Panel("cpu_cores", tuple(f"vm{i}" for i in range(len(values))), 1_700_000_000_000_000_000, step_s, values)


@dataclass(frozen=True)
class Says:
    """A model that says the same quantiles [L] of every step, NaN for VMs without any value."""

    said: np.ndarray
    name: str = "says"
    about: str = "says"

    def quantiles(self, recent: Panel, horizon: Horizon, levels: Any):
        assert tuple(levels) == PATH_LEVELS
        values = np.tile(self.said, (len(recent.vms), len(horizon.ahead), 1))
        values[~np.isfinite(recent.values).any(axis=1)] = np.nan
        return forecast_of(recent, horizon, levels, values)

    def shortfall(self, recent: Panel, horizon: Horizon, allocations: Any) -> Any:
        raise NotImplementedError

    def to_dict(self) -> Any:
        raise NotImplementedError


NORMAL = Says(10.0 + norm.ppf(PATH_LEVELS))


def autoregressive(phi: float, steps: int, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    out = np.zeros(steps)
    for t in range(1, steps):
        out[t] = phi * out[t - 1] + np.sqrt(1 - phi * phi) * rng.standard_normal()
    return 10.0 + out


def test_each_step_is_distributed_as_the_model_says():
    drawn = paths(NORMAL, panel(autoregressive(0.9, 2000)[None]), Horizon(24), 400, np.random.default_rng(0))
    assert drawn.shape == (1, 400, 24)
    for level in (0.1, 0.5, 0.9, 0.975):
        np.testing.assert_allclose(np.quantile(drawn[0], level, axis=0), 10.0 + norm.ppf(level), atol=0.25)


@pytest.mark.parametrize(("phi", "low", "high"), [(0.0, -0.1, 0.1), (0.9, 0.8, 0.95), (0.5, 0.4, 0.6)])
def test_steps_hang_together_as_they_did_in_the_past(phi: float, low: float, high: float):
    drawn = paths(NORMAL, panel(autoregressive(phi, 8000)[None], 300.0), Horizon(48), 500, np.random.default_rng(0))[0]
    later = drawn[:, 24:]  # what is known of now has faded
    assert low < spearmanr(later[:, :-1].ravel(), later[:, 1:].ravel()).statistic < high


@pytest.mark.parametrize("phi", [0.0, 0.95])
def test_a_windows_peak_is_distributed_as_that_of_the_process(phi: float):
    drawn = paths(NORMAL, panel(autoregressive(phi, 8000)[None], 300.0), Horizon(48), 500, np.random.default_rng(0))
    true = autoregressive(phi, 400_000, seed=9)[: 48 * 8000].reshape(-1, 48).max(axis=1)
    got = window_needs(drawn, PEAK)[0]
    want = np.quantile(true, [0.1, 0.5, 0.9])  # taken for the other process's, they would be off by 0.8 to 1.3
    np.testing.assert_allclose(np.quantile(got, [0.1, 0.5, 0.9]), want, atol=0.45)


def test_the_time_of_day_is_no_connection():
    wave = 10.0 + 5.0 * np.sin(2 * np.pi * np.arange(24 * 28) / 24)
    scores = normal_scores(panel((wave + 0.1 * np.random.default_rng(0).standard_normal(wave.shape))[None]))[0]
    assert abs(np.corrcoef(scores, wave)[0, 1]) < 0.05


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.zeros((1, 300)), id="all zero"),
        pytest.param(np.full((1, 300), 2.0), id="constant"),
        pytest.param(np.ones((1, 1)), id="one value"),
        pytest.param(np.ones((1, 3)), id="three values"),
        pytest.param(np.where(np.arange(300) == 9, 1e9, 0.1)[None], id="one spike"),
        pytest.param(np.where(np.random.default_rng(0).random((2, 300)) < 0.5, np.nan, 1.0), id="half of it gaps"),
    ],
)
def test_whatever_the_past_paths_are_finite_and_not_negative(values: np.ndarray):
    drawn = paths(Says(norm.ppf(PATH_LEVELS)), panel(values), Horizon.thinned(1000, 50), 20, np.random.default_rng(0))
    assert np.isfinite(drawn).all()
    assert (drawn >= 0).all()


def test_a_vm_without_a_value_has_no_paths_and_harms_no_other():
    history = panel(np.stack([np.full(100, np.nan), autoregressive(0.5, 100)]))
    drawn = paths(NORMAL, history, Horizon(5), 7, np.random.default_rng(0))
    assert np.isnan(drawn[0]).all()
    assert np.isfinite(drawn[1]).all()


def test_the_same_generator_draws_the_same_and_a_models_own_paths_are_taken():
    history = panel(autoregressive(0.5, 300)[None])
    first, again = (paths(NORMAL, history, Horizon(5), 9, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first, again)

    class Own(Says):
        def paths(self, recent: Panel, horizon: Horizon, draws: int, rng: np.random.Generator) -> np.ndarray:
            return np.zeros((1, draws, len(horizon.ahead)))

    assert not paths(Own(NORMAL.said), history, Horizon(5), 9, np.random.default_rng(4)).any()


@pytest.mark.parametrize("draws", [0, -1, 10_001])
def test_no_paths_or_too_many_are_refused(draws: int):
    with pytest.raises(InputError, match="ask for 1 to 10000"):
        paths(NORMAL, panel(np.ones((1, 50))), Horizon(5), draws, np.random.default_rng(0))
