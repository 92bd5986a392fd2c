"""When a back-test sets sizes: origins at whole periods counted from 00:00 UTC. Pure; reads nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adumbra.schema.backtests import Schedule
from adumbra.schema.errors import InputError, TooLittleDataError
from adumbra.schema.records import NANOSECONDS, Panel
from adumbra.schema.units import format_duration, format_time

DAY_S = 86_400.0
MAX_ORIGINS = 20_000
"""More than two years of hourly sizes."""


@dataclass(frozen=True, slots=True)
class Periods:
    """How often a size is set, how long it is meant for, how far back rules look (seconds), and the first time that is scored
    (ns since the epoch, UTC; None: as soon as the lead-in is over).
    """

    resize_s: float = DAY_S
    horizon_s: float = DAY_S
    lead_in_s: float = 14 * DAY_S
    first_ns: int | None = None


def steps_of(seconds: float, step_s: float, option: str) -> int:
    """So many whole steps. Raises InputError naming the option where it isn't a whole number of them."""
    steps = round(seconds / step_s)
    if steps < 1 or abs(steps * step_s - seconds) > 1e-6 * seconds:
        raise InputError(
            f"{option} of {format_duration(seconds)} is no whole number of steps of {format_duration(step_s)}",
            f"give a multiple of {format_duration(step_s)}, or another --step",
        )
    return steps


def schedule_of(panel: Panel, periods: Periods) -> Schedule:
    """Origins at whole resize periods counted from 00:00 UTC of the first day that has one, after the lead-in.

    Only windows that lie in the panel as a whole are in it. Raises InputError for periods that aren't whole steps,
    TooLittleDataError where nothing is left after the lead-in.
    """
    if periods.horizon_s < periods.resize_s:
        raise InputError(
            f"sizes meant for {format_duration(periods.horizon_s)} can't be held for {format_duration(periods.resize_s)}",
            "give a --horizon no shorter than --resize",
        )
    held = steps_of(periods.resize_s, panel.step_s, "--resize")
    lead_in = steps_of(periods.lead_in_s, panel.step_s, "--lead-in")
    steps = panel.values.shape[1]
    step_ns, resize_ns = round(panel.step_s * NANOSECONDS), round(periods.resize_s * NANOSECONDS)
    known_ns = panel.start_ns + lead_in * step_ns
    if periods.first_ns is not None and periods.first_ns < known_ns:
        raise InputError(
            f"--from {format_time(periods.first_ns)} lies before the end of the lead-in, {format_time(known_ns)}",
            "give a later time, or a shorter --lead-in",
        )
    first_ns = _first_ns(known_ns if periods.first_ns is None else periods.first_ns, resize_ns)
    first = -(-(first_ns - panel.start_ns) // step_ns)  # where the grid has no step at 00:00, the next
    origins = np.arange(first, steps - held + 1, held, dtype=np.int64)
    if not len(origins):
        raise TooLittleDataError(
            f"{_span(panel)} leaves no {format_duration(periods.resize_s)} to score after {format_time(first_ns)} "
            f"(a lead-in of {format_duration(periods.lead_in_s)})",
            "give a longer history, a shorter --lead-in, an earlier --from or a shorter --resize",
        )
    if len(origins) > MAX_ORIGINS:
        raise InputError(f"{len(origins):,} times of sizing are too many", f"give a longer --resize (at most {MAX_ORIGINS:,})")
    return Schedule(origins, held, lead_in)


def _first_ns(at_least_ns: int, resize_ns: int) -> int:
    """The first whole period from then on: counted from 00:00 UTC of that day, or the next 00:00 for periods over a day."""
    day_ns = round(DAY_S * NANOSECONDS)
    midnight = at_least_ns // day_ns * day_ns
    found = midnight + -(-(at_least_ns - midnight) // min(resize_ns, day_ns)) * min(resize_ns, day_ns)
    return min(found, midnight + day_ns)


def _span(panel: Panel) -> str:
    length_s = panel.values.shape[1] * panel.step_s
    return f"a history of {format_duration(length_s)} from {format_time(panel.start_ns)}"


def times_ns(panel: Panel, schedule: Schedule) -> list[int]:
    """When each size is set, ns since the epoch."""
    step_ns = round(panel.step_s * NANOSECONDS)
    return [panel.start_ns + int(origin) * step_ns for origin in schedule.origins]
