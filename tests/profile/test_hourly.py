"""Sizes by the hour of the week: the largest that a forecast has in each hour."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from adumbra.profile.hourly import DAYS, hourly
from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, Quantiles

START = datetime(2026, 1, 31, 22, 30, tzinfo=UTC)  # a Saturday


def forecast(values, step_s, levels=(0.99,), start=START):
    values = np.asarray(values, float)
    names = tuple(f"vm-{i}" for i in range(len(values)))
    return Quantiles("cpu_cores", names, round(start.timestamp()) * NANOSECONDS, step_s, levels, values[..., None])


@pytest.mark.parametrize("minutes", [5, 15, 60])
def test_each_hour_takes_the_largest_of_its_steps_whatever_the_step(minutes):
    rng = np.random.default_rng(minutes)
    values = rng.exponential(1.0, (3, 8 * 24 * 60 // minutes))
    want = np.zeros((3, 7, 24))
    for i in range(values.shape[1]):
        when = START + timedelta(minutes=minutes * i)
        at = (slice(None), when.weekday(), when.hour)
        want[at] = np.maximum(want[at], values[:, i])
    got = hourly(forecast(values, minutes * 60.0), 0.01)
    np.testing.assert_array_equal(got.sizes, want)
    np.testing.assert_allclose(got.most, want.max(axis=(1, 2)))
    np.testing.assert_allclose(got.mean, want.mean(axis=(1, 2)))
    assert got.to_dict()["days"] == list(DAYS)
    assert got.to_dict()["vms"]["vm-1"][5][23] == want[1, 5, 23]


def test_a_vm_that_was_not_seen_has_no_sizes():
    values = np.ones((2, 168))
    values[1] = np.nan
    got = hourly(forecast(values, 3600.0), 0.01)
    assert (got.sizes[0] == 1).all()
    assert np.isnan(got.sizes[1]).all()


@pytest.mark.parametrize(
    ("steps", "step_s", "shortfall", "told"),
    [
        (167, 3600.0, 0.01, "doesn't reach every hour"),
        (84, 7200.0, 0.01, "doesn't reach every hour"),
        (168, 3600.0, 0.02, "no quantile at 0.98"),
    ],
)
def test_what_does_not_hold_a_week_is_refused(steps, step_s, shortfall, told):
    with pytest.raises(InputError, match=told):
        hourly(forecast(np.ones((1, steps)), step_s), shortfall)
