"""When sizes are set: whole periods from 00:00 UTC, after the lead-in, and refusals that say what to give."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import NANOSECONDS, Panel
from adumbra.schema.units import format_time
from adumbra.service.schedules import Periods, schedule_of, steps_of, times_ns

H, D = 3600.0, 86_400.0


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NANOSECONDS


def panel(start: str, step_s: float, steps: int) -> Panel:
    return Panel("cpu_cores", ("a",), at(start), step_s, np.zeros((1, steps)))


FROM = Periods(first_ns=at("2013-08-20"))
CASES = [  # start, step, days, periods -> first and last origin, how many, steps held
    ("2013-06-30T22:00", 300.0, 91, Periods(), "2013-07-15T00:00:00Z", "2013-09-28T00:00:00Z", 76, 288),
    ("2013-06-30T22:00", 300.0, 91, FROM, "2013-08-20T00:00:00Z", "2013-09-28T00:00:00Z", 40, 288),
    ("2024-01-01T00:00", 3600.0, 20, Periods(), "2024-01-15T00:00:00Z", "2024-01-20T00:00:00Z", 6, 24),
    ("2024-01-01T00:30", 1800.0, 15, Periods(resize_s=H), "2024-01-15T01:00:00Z", "2024-01-15T23:00:00Z", 23, 2),
    ("2024-01-01T00:00", 3600.0, 30, Periods(7 * D, 7 * D, 14 * D), "2024-01-15T00:00:00Z", "2024-01-22T00:00:00Z", 2, 168),
    ("2024-01-01T00:00", 3600.0, 3, Periods(5 * H, D, D), "2024-01-02T00:00:00Z", "2024-01-03T16:00:00Z", 9, 5),
    ("2024-01-01T03:00", 3600.0, 3, Periods(7 * H, D, D), "2024-01-02T07:00:00Z", "2024-01-03T18:00:00Z", 6, 7),
    ("2024-01-01T00:00", 3600.0, 2, Periods(H, H, D), "2024-01-02T00:00:00Z", "2024-01-02T23:00:00Z", 24, 1),
]  # fmt: skip


@pytest.mark.parametrize(("start", "step_s", "days", "periods", "first", "last", "count", "held"), CASES)
def test_origins(start: str, step_s: float, days: int, periods: Periods, first: str, last: str, count: int, held: int) -> None:
    known = panel(start, step_s, int(days * D / step_s))
    schedule = schedule_of(known, periods)
    times = times_ns(known, schedule)
    assert (format_time(times[0]), format_time(times[-1]), len(times), schedule.held_steps) == (first, last, count, held)


@given(start_min=st.integers(0, 3 * 1440), steps=st.integers(1, 3000), resize=st.integers(1, 80), lead_in=st.integers(1, 500))
def test_origins_are_whole_periods_after_the_lead_in(start_min: int, steps: int, resize: int, lead_in: int) -> None:
    known = Panel("cpu_cores", ("a",), start_min * 60 * NANOSECONDS, 1800.0, np.zeros((1, steps)))
    try:
        schedule = schedule_of(known, Periods(resize * 1800.0, 200 * D, lead_in * 1800.0))
    except TooLittleDataError:
        # From the lead-in to the next 00:00 there is at most a day.
        assert steps - lead_in <= 48 + max(resize, 1)
        return
    origins = schedule.origins
    assert origins[0] >= lead_in
    assert (np.diff(origins) == resize).all()
    assert origins[-1] + resize <= steps, "the last window is there as a whole"
    assert origins[-1] + 2 * resize > steps, "and no other fits"
    since_midnight_s = times_ns(known, schedule)[0] // NANOSECONDS % 86_400
    # The grid may stand between two whole periods; then it is the first step after one.
    assert since_midnight_s % min(resize * 1800, 86_400) < 1800


REFUSED = [
    (Periods(horizon_s=H), InputError, "no shorter than --resize"),
    (Periods(resize_s=500.0), InputError, "--resize of 8 min 20 s is no whole number of steps of 1 h"),
    (Periods(lead_in_s=5400.0), InputError, "--lead-in of 1 h 30 min"),
    (Periods(first_ns=at("2024-01-05")), InputError, "before the end of the lead-in, 2024-01-15T00:00:00Z"),
    (Periods(first_ns=at("2024-01-21")), TooLittleDataError, "a history of 20 d from 2024-01-01T00:00:00Z leaves no 1 d"),
    (Periods(lead_in_s=20 * D), TooLittleDataError, "a shorter --lead-in"),
]


@pytest.mark.parametrize(("periods", "error", "says"), REFUSED)
def test_what_is_refused(periods: Periods, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        schedule_of(panel("2024-01-01", 3600.0, 480), periods)


def test_too_many_origins() -> None:
    with pytest.raises(InputError, match="too many"):
        schedule_of(panel("2024-01-01", 60.0, 50_000), Periods(60.0, D, D))


@pytest.mark.parametrize(("seconds", "step_s", "want"), [(300.0, 300.0, 1), (86_400.0, 300.0, 288), (0.3, 0.1, 3)])
def test_steps(seconds: float, step_s: float, want: int) -> None:
    assert steps_of(seconds, step_s, "--resize") == want
