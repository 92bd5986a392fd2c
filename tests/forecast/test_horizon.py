"""The measured horizon table: its shape, what it says of short windows, and how it is read between and beyond."""

from __future__ import annotations

import numpy as np
import pytest

from adumbra.forecast import horizon
from adumbra.forecast.series import RESOURCE
from adumbra.schema.sizing import RESOURCES

MINUTE, HOUR, DAY, WEEK = 60.0, 3_600.0, 86_400.0, 604_800.0


def ratios(resource: str, used: float, learned_s: float, horizon_s: float, shortfall: float = 0.01) -> np.ndarray:
    found = horizon.load().log_ratios(resource, shortfall, np.array([used]), np.array([learned_s]), horizon_s)
    return np.exp(found[0])


def test_the_package_holds_a_table_of_every_resource_with_its_source_and_how_it_was_measured():
    table = horizon.load()
    assert set(table.resources) == set(RESOURCES)
    assert "Bitbrains" in table.source
    assert table.machines == 200
    for name, measured in table.resources.items():
        assert measured.what
        assert measured.floor == RESOURCE[name].floor
        assert np.isfinite(measured.log_ratios).all()
        assert (np.diff(measured.log_ratios, axis=-1) >= 0).all()  # quantiles rise
    assert "analogy" in table.resources["storage_gb"].what


@pytest.mark.parametrize("resource", RESOURCES)
def test_what_was_measured_is_given_back_at_its_own_points(resource: str):
    measured = horizon.load().resources[resource]
    for b, used in enumerate(measured.used):
        for w, learned_s in enumerate(measured.windows_s):
            amount = 0.0 if b == 0 else used
            got = ratios(resource, amount, learned_s, measured.horizons_s[-1], measured.shares[0])
            np.testing.assert_allclose(got, np.exp(measured.log_ratios[0, b, w, -1]), rtol=1e-9)


@pytest.mark.parametrize(("resource", "used"), [("cpu_cores", 0.3), ("memory_gb", 1.0), ("bandwidth_mbps", 5.0)])
def test_the_less_was_learned_the_wider_the_next_week(resource: str, used: float):
    minutes, day, week = (ratios(resource, used, span, WEEK) for span in (15 * MINUTE, DAY, WEEK))
    assert minutes[2] > day[2] > week[2]
    assert minutes[2] > 3  # one machine in ten needs more than three times what 15 minutes showed
    assert ratios(resource, used, MINUTE, WEEK)[2] >= minutes[2]  # and a minute shows still less


def test_between_the_measured_points_it_lies_between_them():
    ends = [ratios("cpu_cores", 0.3, 2 * HOUR, span) for span in (DAY, 3 * DAY)]
    between = ratios("cpu_cores", 0.3, 2 * HOUR, 2 * DAY)
    assert (between >= np.minimum(*ends) - 1e-9).all()
    assert (between <= np.maximum(*ends) + 1e-9).all()


def test_a_horizon_of_seconds_needs_no_widening():
    np.testing.assert_allclose(ratios("cpu_cores", 0.3, 15 * MINUTE, 10.0), 1.0)
    shorter, longer = ratios("cpu_cores", 0.3, 15 * MINUTE, MINUTE), ratios("cpu_cores", 0.3, 15 * MINUTE, 15 * MINUTE)
    assert 1 <= shorter[2] < longer[2]


@pytest.mark.parametrize("learned_s", [0.0, 1.0, 30 * MINUTE, 400 * DAY])
@pytest.mark.parametrize("horizon_s", [0.001, MINUTE, 90 * DAY, 10_000 * DAY])
@pytest.mark.parametrize("used", [0.0, 0.05, 1e9])
def test_it_answers_for_anything_and_never_with_nonsense(learned_s: float, horizon_s: float, used: float):
    for shortfall in (1e-6, 0.01, 0.5):
        got = ratios("bandwidth_mbps", used, learned_s, horizon_s, shortfall)
        assert np.isfinite(got).all()
        assert (got > 0).all()
        assert (np.diff(got) >= 0).all()


def test_a_table_of_another_shape_is_refused():
    entry = {"what": "x", "floor": 1.0, "shares": [0.01], "used": [1.0], "ratios": [[[[1.0, 1.0, 1.0, 1.0]]]]}
    plain = {
        "source": "s", "machines": 1, "levels": [0.1, 0.5, 0.9, 0.99], "windows_s": [900], "horizons_s": [900],
        "resources": {"cpu_cores": entry},
    }  # fmt: skip
    with pytest.raises(ValueError, match="horizon table of cpu_cores"):
        horizon.widening_of(plain)
    entry["ratios"] = [entry["ratios"]]
    assert horizon.widening_of(plain).machines == 1
