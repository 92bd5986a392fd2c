"""Calibration that holds as often as it says: exact ranks, groups, honesty where there is too little, simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adumbra.forecast.conformal import Bound, Calibration, bound, calibrate

LEVELS = (0.025, 0.1, 0.5, 0.9, 0.95, 0.975, 0.99)


@pytest.mark.parametrize(
    ("count", "level", "want"),
    [
        (9, 0.9, Bound(9.0, True)),  # ceil(10 x 0.9) = the 9th of 9
        (19, 0.9, Bound(18.0, True)),
        (19, 0.95, Bound(19.0, True)),
        (99, 0.99, Bound(99.0, True)),
        (8, 0.9, Bound(8.0, False)),  # the 9th of 8: not there, so the largest, unpromised
        (98, 0.99, Bound(98.0, False)),
        (9, 0.1, Bound(1.0, True)),  # from below: the smallest
        (8, 0.1, Bound(1.0, False)),
        (3, 0.5, Bound(2.0, True)),
    ],
)
def test_the_bound_is_the_rank_that_split_conformal_prescribes(count: int, level: float, want: Bound):
    errors = np.random.default_rng(1).permutation(np.arange(1.0, count + 1))
    assert bound(errors, count, level) == want


def test_no_errors_promise_nothing():
    assert bound(np.empty(0), 0, 0.9) == Bound(0.0, False)


def test_many_steps_of_few_windows_are_worth_no_more_than_the_windows():
    errors = np.arange(1000.0)
    assert not bound(errors, 8, 0.9).promised
    few, many = bound(errors, 20, 0.9), bound(errors, 1000, 0.9)
    assert few.promised
    assert many.promised
    assert few.value > many.value


def test_exchangeable_errors_are_covered_as_often_as_promised():
    """Split conformal covers with probability between level and level + 1/(n + 1): within four binomial deviations."""
    rng, trials, count = np.random.default_rng(7), 4_000, 19
    for level in (0.1, 0.5, 0.8, 0.9):
        draws = rng.gamma(0.5, size=(trials, count + 1))
        held = sum(draw[-1] <= bound(draw[:-1], count, level).value for draw in draws) / trials
        least = level if level >= 0.5 else level - 1 / (count + 1)
        slack = 4 * math.sqrt(level * (1 - level) / trials)
        assert least - slack <= held <= least + 1 / (count + 1) + slack, level


def test_errors_that_hang_together_in_windows_are_covered_too():
    """Each window has an offset of its own, as an origin of a VM has: counted one by one, its steps would promise too much."""
    rng, trials, groups, steps = np.random.default_rng(8), 2_000, 20, 30
    held = naive = 0
    for _ in range(trials):
        errors = rng.normal(size=(groups + 1, 1)) + 0.3 * rng.normal(size=(groups + 1, steps))
        seen, new = errors[:-1].reshape(-1), errors[-1, 0]
        held += new <= bound(seen, groups, 0.9).value
        naive += new <= bound(seen, len(seen), 0.9).value
    slack = 4 * math.sqrt(0.9 * 0.1 / trials)
    assert held / trials >= 0.9 - slack
    assert held > naive


def test_calibrated_quantiles_are_moved_by_each_levels_errors_in_units_of_the_vms_scale():
    errors = np.random.default_rng(2).normal(size=(500, 1)) + np.zeros((1, len(LEVELS)))
    found = calibrate(errors, 500, LEVELS)
    moved = found.apply(np.full((2, 3, len(LEVELS)), 50.0), np.array([1.0, 10.0]))
    np.testing.assert_allclose(moved[1] - 50, 10 * (moved[0] - 50))
    assert (np.diff(moved, axis=-1) >= 0).all()
    assert moved[0, 0, 3] - 50 == pytest.approx(1.28, abs=0.2)
    assert all(offset.promised for offset in found.offsets)


def test_a_calibration_goes_to_plain_data_and_back():
    found = calibrate(np.random.default_rng(3).normal(size=(10, len(LEVELS))), 10, LEVELS)
    assert Calibration.from_dict(found.to_dict()) == found
    assert [offset.promised for offset in found.offsets] == [False, True, True, True, False, False, False]
