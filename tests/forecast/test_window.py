"""What a stretch of use needs: the order statistic, its inverse for forecasts, and that both mean the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adumbra.forecast.series import Statistic
from adumbra.forecast.window import (
    Need,
    at_levels,
    foreseen,
    mean_of,
    measured,
    rearranged,
    requirement,
    share_above,
    smallest_allocation,
)
from adumbra.schema.errors import InputError

NAN = float("nan")
LEVELS = (0.025, 0.1, 0.5, 0.9, 0.95, 0.975, 0.99)


@pytest.mark.parametrize(
    ("values", "shortfall", "want"),
    [
        ([3.0, 1.0, 2.0], 0.01, 3.0),  # of three, one is more than 1 %
        (list(range(100)), 0.01, 98.0),  # one in a hundred may exceed
        (list(range(100)), 0.0, 99.0),
        (list(range(200)), 0.05, 189.0),
        ([1.0, NAN, 5.0, NAN], 0.5, 1.0),  # gaps count neither way
        ([NAN, NAN], 0.01, NAN),
        ([], 0.01, NAN),
    ],
)
def test_the_least_amount_that_is_exceeded_no_more_often_than_asked(values: list[float], shortfall: float, want: float):
    np.testing.assert_array_equal(requirement(np.array(values, np.float64), shortfall), want)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(0, 0.9))
def test_a_requirement_is_kept_and_nothing_smaller_would_keep_it(values: list[float], shortfall: float):
    use = np.array(values)
    amount = requirement(use, shortfall)
    assert (use > amount).mean() <= shortfall + 1e-9
    smaller = use[use < amount]
    if len(smaller):
        assert (use > smaller.max()).mean() > shortfall - 1e-9


def test_memory_is_measured_by_its_peak_and_growth_by_its_mean():
    use = np.array([[1.0, 9.0, 2.0, NAN]])
    assert measured(use, Need(Statistic.PEAK, 0.5)) == 9.0
    assert measured(use, Need(Statistic.GROWTH, 0.5)) == 4.0
    assert measured(use, Need(Statistic.SHARE, 0.5)) == 2.0
    assert np.isnan(measured(use[:, 3:], Need(Statistic.GROWTH, 0.5))).all()


def normal_forecast(steps: int) -> np.ndarray:
    """Two VMs, the second with ten times the first's use: normal(10, 2) at LEVELS."""
    z = np.array([-1.959964, -1.281552, 0.0, 1.281552, 1.644854, 1.959964, 2.326348])
    return np.stack([10 + 2 * z, 100 + 20 * z])[:, None, :].repeat(steps, axis=1)


def test_the_share_short_is_that_of_the_distribution():
    allocations = np.array([[10.0, 12.563104, 14.652696], [100.0, 125.63104, 146.52696]])
    np.testing.assert_allclose(share_above(normal_forecast(3), LEVELS, allocations), [[0.5, 0.1, 0.01]] * 2, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 1e4), min_size=7, max_size=7), min_size=1, max_size=5),
    st.floats(0.001, 0.5),
)
def test_the_smallest_allocation_is_the_inverse_of_the_share_short(steps: list[list[float]], shortfall: float):
    forecast = rearranged(np.array([steps]))
    amount = smallest_allocation(forecast, LEVELS, shortfall)
    assert share_above(forecast, LEVELS, amount[:, None] * (1 + 1e-6) + 1e-6)[0, 0] <= shortfall + 1e-6
    if amount[0] > 1e-3:
        assert share_above(forecast, LEVELS, amount[:, None] * (1 - 1e-3) - 1e-6)[0, 0] >= shortfall - 1e-6


def test_one_busy_hour_in_a_day_decides_at_one_percent_and_not_at_ten():
    calm, busy = np.full((1, 23, 7), 1.0), np.full((1, 1, 7), 8.0)
    day = np.concatenate([calm, busy], axis=1)
    assert smallest_allocation(day, LEVELS, 0.01) == pytest.approx(8.0, rel=0.05)
    assert smallest_allocation(day, LEVELS, 0.1) == pytest.approx(1.0, rel=0.05)


def test_a_vm_without_a_forecast_has_no_allocation():
    forecast = normal_forecast(2)
    forecast[1] = np.nan
    got = smallest_allocation(forecast, LEVELS, 0.01)
    assert np.isfinite(got[0])
    assert np.isnan(got[1])


def test_levels_are_read_off_between_and_beyond_those_there_are():
    forecast = normal_forecast(1)
    got = at_levels(forecast, LEVELS, (0.01, 0.3, 0.5, 0.925, 0.999))
    assert (np.diff(got, axis=-1) > 0).all()
    assert got[0, 0, 2] == 10.0
    assert got[0, 0, 4] > forecast[0, 0, -1]
    np.testing.assert_array_equal(at_levels(forecast, LEVELS, LEVELS), forecast)
    for wrong in ((0.0, 0.5), (0.5, 1.0), (0.9, 0.5)):
        with pytest.raises(InputError):
            at_levels(forecast, LEVELS, wrong)


def test_crossed_quantiles_are_set_in_order_and_none_is_below_zero():
    np.testing.assert_array_equal(rearranged(np.array([[[3.0, -1.0, 2.0]]])), [[[0.0, 2.0, 3.0]]])


def test_what_a_forecast_says_a_window_needs_goes_by_the_statistic():
    forecast = normal_forecast(50)
    share = foreseen(forecast, LEVELS, Need(Statistic.SHARE, 0.1), 50)
    peak = foreseen(forecast, LEVELS, Need(Statistic.PEAK, 0.1), 50)
    growth = foreseen(forecast, LEVELS, Need(Statistic.GROWTH, 0.1), 50)
    np.testing.assert_allclose(share, [12.563, 125.63], rtol=1e-3)
    np.testing.assert_allclose(growth, [10, 100], rtol=0.02)
    np.testing.assert_allclose(mean_of(forecast, LEVELS)[:, 0], growth)
    assert (peak > share).all()  # what one step in fifty exceeds lies above what one in ten does


def test_a_shortfall_that_is_no_share_is_refused():
    for wrong in (0.0, 1.0, -0.1):
        with pytest.raises(InputError):
            smallest_allocation(normal_forecast(1), LEVELS, wrong)
