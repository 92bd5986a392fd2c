"""From stored columns to a resource's use: units, gaps, the working step, and what is learned of a thing that grows."""

from __future__ import annotations

import numpy as np
import pytest

from adumbra.forecast.series import COLUMNS, MAX_STEPS, choose_step_s, high_water, modelled, panel, until
from adumbra.schema.errors import InputError
from adumbra.schema.metrics import BY_NAME
from adumbra.schema.records import Panel, Series
from adumbra.schema.sizing import RESOURCES

NAN = float("nan")
GB = 2.0**30


def series(step_s: float = 5.0, **columns: list[float]) -> Series:
    values = {name: np.array([row], np.float64) for name, row in columns.items()}
    steps = len(next(iter(columns.values())))
    return Series("shop", ("web-1",), 0, step_s, values, np.zeros((1, steps)))


@pytest.mark.parametrize(
    ("resource", "columns", "want"),
    [
        ("cpu_cores", {"cpu_seconds": [5.0, 10.0, NAN, 0.0]}, [1.0, 2.0, NAN, 0.0]),
        ("memory_gb", {"memory_bytes": [GB, 2.5 * GB, NAN, 0.0]}, [1.0, 2.5, NAN, 0.0]),
        ("bandwidth_mbps", {"rx_bytes": [625e3, 0.0, NAN, 1.0], "tx_bytes": [0.0, 1.25e6, NAN, 1.0]}, [1.0, 2.0, NAN, 1.6e-6]),
        ("storage_gb", {"storage_bytes": [8.0 * GB, 8.0 * GB, NAN, 9.0 * GB]}, [8.0, 8.0, NAN, 9.0]),
    ],
)
def test_use_is_in_the_resources_unit_and_gaps_stay_gaps(resource: str, columns: dict[str, list[float]], want: list[float]):
    got = panel(series(**columns), resource)
    np.testing.assert_allclose(got.values, [want])
    assert (got.resource, got.vms, got.step_s) == (resource, ("web-1",), 5.0)


def test_scans_need_no_bandwidth():
    seen = {"rx_bytes": [625e3, 625e3, 625e3, NAN], "tx_bytes": [0.0, 0.0, 1.25e6, 0.0], "scan_bytes": [0.0, 312.5e3, 9e9, 1.0]}
    got = panel(series(**seen), "bandwidth_mbps")
    np.testing.assert_allclose(got.values, [[1.0, 0.5, 2.0, 0.0]])


def test_what_no_machine_can_use_is_a_gap():
    got = panel(series(cpu_seconds=[-1.0, float("inf"), 5.0]), "cpu_cores")
    np.testing.assert_array_equal(got.values, [[NAN, NAN, 1.0]])


def test_the_columns_asked_for_are_stored_ones_and_enough_for_every_resource():
    assert set(COLUMNS) <= set(BY_NAME)
    whole = series(**{column: [1.0, 2.0] for column in COLUMNS})
    assert [panel(whole, name).resource for name in RESOURCES] == list(RESOURCES)


def test_a_missing_column_and_an_unknown_resource_are_refused():
    with pytest.raises(InputError, match="rx_bytes"):
        panel(series(cpu_seconds=[1.0]), "bandwidth_mbps")
    with pytest.raises(InputError, match="cpu_cores, memory_gb"):
        panel(series(cpu_seconds=[1.0]), "gpu")


@pytest.mark.parametrize(
    ("interval_s", "learned_s", "want"),
    [
        (1.0, 900, 1.0),  # 15 minutes: as stored
        (1.0, 3_000, 1.0),
        (1.0, 3_600, 2.0),
        (1.0, 86_400, 30.0),
        (1.0, 7 * 86_400, 300.0),
        (1.0, 10 * 86_400, 300.0),
        (1.0, 30 * 86_400, 900.0),
        (300.0, 3_600, 300.0),
        (7.0, 86_400, 35.0),  # no round step is a multiple of 7 s: the least one is
        (0.5, 900, 0.5),
        (1.0, 400 * 86_400, 3_600.0),
    ],
)
def test_the_working_step_keeps_a_history_to_about_3000_steps(interval_s: float, learned_s: float, want: float):
    step_s = choose_step_s(interval_s, learned_s)
    assert step_s == want
    assert learned_s / step_s <= MAX_STEPS or step_s == 3_600
    assert step_s / interval_s == pytest.approx(round(step_s / interval_s))


@pytest.mark.parametrize(("interval_s", "learned_s"), [(0.0, 10.0), (-1.0, 10.0), (1.0, -1.0), (1.0, NAN)])
def test_a_step_of_nothing_is_refused(interval_s: float, learned_s: float):
    with pytest.raises(InputError):
        choose_step_s(interval_s, learned_s)


def test_growth_is_that_of_the_high_water_mark_so_that_what_is_freed_and_refilled_is_none():
    day = Panel("storage_gb", ("db",), 0, 86_400.0, np.array([[NAN, 10.0, 12.0, 11.0, 12.0, NAN, 15.0]]))
    np.testing.assert_array_equal(high_water(day.values), [[NAN, 10, 12, 12, 12, 12, 15]])
    np.testing.assert_array_equal(modelled(day).values, [[NAN, NAN, 2, 0, 0, NAN, 3]])


def test_what_was_known_then_holds_nothing_of_later():
    whole = Panel("cpu_cores", ("a",), 0, 1.0, np.arange(10.0)[None, :])
    known = until(whole, 4)
    np.testing.assert_array_equal(known.values, [[0, 1, 2, 3]])
    assert known.values.base is None  # its own memory: there is no array behind it in which the rest stands
