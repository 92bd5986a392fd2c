"""The ensemble: weights that lose least, none below zero; members that can't learn or forecast are borne."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.forecast import registry
from adumbra.forecast.models.ensemble import Ensemble, averaged, weights_of
from adumbra.forecast.models.protocol import LEVELS, Horizon
from adumbra.forecast.models.seasonal_naive import SeasonalNaive
from adumbra.forecast.scores import pinball
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import Panel

NAN = float("nan")
MIDDLE = LEVELS.index(0.5)


def flat(levels: list[float], n: int) -> np.ndarray:
    """Members that say the same at all levels and cases, [M, n, L]."""
    return np.array(levels)[:, None, None] + np.zeros((1, n, len(LEVELS)))


def test_all_weight_goes_to_the_member_that_is_right():
    assert weights_of(np.full(50, 5.0), flat([9.0, 5.0, 1.0], 50), np.ones(50)) == (0.0, 1.0, 0.0)


def test_two_that_err_on_either_side_are_averaged():
    rng = np.random.default_rng(1)
    truth = rng.gamma(4.0, 1.0, 4_000)
    first, second = truth + rng.normal(0, 1, 4_000), truth + rng.normal(0, 1, 4_000)
    said = np.stack([first, second])[..., None] + np.linspace(-1, 2, len(LEVELS))
    weights = weights_of(truth, said, np.ones(4_000))
    assert weights == pytest.approx((0.5, 0.5), abs=0.06)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(0, 40), st.integers(0, 1_000))
def test_weights_are_a_share_each_and_lose_no_more_than_the_best_member(members: int, cases: int, seed: int):
    rng = np.random.default_rng(seed)
    truth = rng.gamma(1.0, 1.0, cases)
    said = np.sort(rng.gamma(1.0, 2.0, (members, cases, len(LEVELS))), axis=-1)
    said[rng.random(said.shape) < 0.05] = NAN
    weights = np.array(weights_of(truth, said, np.ones(cases)))
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0)
    sound = np.isfinite(said).all(axis=(0, 2))
    if members > 1 and sound.any():
        at = [LEVELS.index(level) for level in (0.5, 0.9, 0.95, 0.99)]

        def loss(quantiles: np.ndarray) -> float:
            return float(np.mean([pinball(truth[sound], quantiles[:, i], LEVELS[i]).mean() for i in at]))

        alone = min(loss(each) for each in said[:, sound])
        assert loss(np.tensordot(weights, said[:, sound], axes=1)) <= alone * 1.1 + 1e-9


def test_where_a_member_has_no_forecast_the_others_stand_in():
    said = flat([2.0, 4.0], 3)
    said[1, 1] = NAN
    said[:, 2] = NAN
    mixed = averaged(said, (0.25, 0.75))
    np.testing.assert_allclose(mixed[:2, MIDDLE], [3.5, 2.0])
    assert np.isnan(mixed[2]).all()


def test_members_that_cannot_learn_are_left_out_and_where_none_can_it_says_so():
    values = np.random.default_rng(2).gamma(4.0, 0.25, (1, 60))
    history = Panel("cpu_cores", ("a",), 0, 1.0, values)
    fitted = Ensemble((SeasonalNaive(), registry.forecaster("lightgbm", 5))).fit(history, np.random.default_rng(0))
    assert [member.name for member in fitted.members] == ["seasonal-naive"]
    assert fitted.about == "it averages 100 % seasonal-naive"
    with pytest.raises(TooLittleDataError, match="observe for"):
        Ensemble((SeasonalNaive(),), (1.0,)).fit(Panel("cpu_cores", ("a",), 0, 1.0, values[:, :3]), np.random.default_rng(0))


def test_an_ensemble_of_nobody_and_weights_that_do_not_fit_are_refused():
    with pytest.raises(InputError):
        Ensemble(())
    with pytest.raises(InputError):
        Ensemble((SeasonalNaive(),), (0.5, 0.5))
    naive = {"name": "seasonal-naive", "season": "", "season_steps": 0}
    for plain in (
        {"name": "ensemble", "weights": [1.0], "members": []},
        {"name": "ensemble", "weights": [-1.0], "members": [naive]},
        {"name": "ensemble", "weights": [1.0], "members": [{"name": "ensemble", "weights": [1.0], "members": [naive]}]},
    ):
        with pytest.raises(ValueError, match="ensemble"):
            registry.restore(plain)


def test_its_weights_come_from_what_was_held_out_and_lean_to_the_better_member():
    """Use that repeats every day: the fleet's use, which knows no time of day, weighs less than seasonal naive."""
    wave = 2 + np.sin(2 * np.pi * np.arange(14 * 24) / 24)
    values = np.stack([wave, 2 * wave]) + 0.02 * np.random.default_rng(3).normal(size=(2, 14 * 24))
    history = Panel("cpu_cores", ("a", "b"), 0, 3_600.0, values)
    fitted = Ensemble((SeasonalNaive(), registry.forecaster("fleet", 24))).fit(history, np.random.default_rng(0))
    assert fitted.members[0].name == "seasonal-naive"
    assert fitted.weights[0] > 0.9
    assert np.isfinite(fitted.quantiles(history, Horizon(24), LEVELS).values).all()
