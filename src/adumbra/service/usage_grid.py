"""Puts rows of measured use onto one regular grid. Pure: decides the step, and what a step's value is of its samples.

Fills no gap, and makes no detail: a step without a sample is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from adumbra.schema.errors import InputError
from adumbra.schema.records import NANOSECONDS, Floats, Ints

DAY_S = 86_400
LEAST_STEP_S, MOST_STEP_S, DEFAULT_STEP_S = 60, 3_600, 300
MAX_CELLS = 64_000_000
"""Of one resource: VMs x steps; 512 MB."""
_STEPS_S = (60, 120, 180, 300, 600, 900, 1_200, 1_800, 3_600)
_SLACK = 1.02
"""Samples this much further apart than the step are still one a step: clocks drift, schedulers lag."""
_STEADY, _ON_TIME = 0.9, 0.02


@dataclass(frozen=True, slots=True)
class Grid:
    """Steps [start + t * step, + step), t < steps; start is a whole number of steps since the epoch, so that days are whole."""

    start_ns: int
    step_s: float
    steps: int

    @property
    def step_ns(self) -> int:
        return round(self.step_s * NANOSECONDS)

    @classmethod
    def over(cls, first_ns: int, last_ns: int, step_s: float) -> Grid:
        """The steps of what was measured from one time to another, and one more: for what came early."""
        step_ns = round(step_s * NANOSECONDS)
        start = first_ns // step_ns * step_ns
        return cls(start, step_s, (last_ns - start) // step_ns + 2)


def checked_step_s(step_s: float) -> float:
    """A step that a user asks for. Raises InputError for one that isn't a whole part of a day, from a minute to an hour."""
    if not (
        math.isfinite(step_s) and LEAST_STEP_S <= step_s <= MOST_STEP_S and step_s == round(step_s) and DAY_S % step_s == 0
    ):
        raise InputError(
            f"a step of {step_s:g} s can't be used", "give one from 1 minute to 1 hour that divides a day, such as 5m"
        )
    return float(step_s)


def fitting_step_s(usual_s: Iterable[float]) -> float:
    """The step for VMs whose samples are so far apart: 5 minutes, or more where one VM in ten has them further apart.

    Raises InputError where that is above an hour.
    """
    known = sorted(each for each in usual_s if math.isfinite(each))
    needed = known[min(int(0.9 * len(known)), len(known) - 1)] if known else 0.0
    for step in _STEPS_S:
        if step >= DEFAULT_STEP_S and needed <= step * _SLACK:
            return float(step)
    raise InputError(
        f"the samples are usually {needed / 3600:.3g} hours apart", "give use that was measured at least once an hour"
    )


def coarser(usual_s: Floats, step_s: float) -> Ints:
    """The VMs whose samples are further apart than the step: they would have gaps between."""
    return np.flatnonzero(usual_s > step_s * _SLACK)


def steps_of(time_ns: Ints, usual_s: float, grid: Grid) -> Ints:
    """The step in which each of a VM's samples counts, int64[n].

    That in which its time lies; but where samples come one a step, at about the same second of it, each counts in the step of
    its usual second: a sample of 11:59:59 that is due at 12:00:01 is that of 12:00.
    """
    step = grid.step_ns
    since = time_ns - grid.start_ns
    if len(time_ns) > 2 and abs(usual_s / grid.step_s - 1) < _SLACK - 1:
        angles = since % step * (2 * math.pi / step)
        mean = complex(np.cos(angles).mean(), np.sin(angles).mean())
        if abs(mean) > _STEADY:
            due = math.atan2(mean.imag, mean.real) / (2 * math.pi) % 1.0 * step
            if min(due, step - due) < _ON_TIME * step:
                due = 0.0
            return (since - round(due) + step // 2) // step
    return since // step


def gathered(at: Ints, values: Floats, steps: int, how: str) -> Floats:
    """float64[steps]: the "mean" or the "max" of the values of each step, NaN where there are none. at: int64[n]."""
    known = np.isfinite(values)
    at, values = at[known], values[known]
    if how == "max":
        most = np.full(steps, np.nan)
        np.fmax.at(most, at, values)
        return most
    counts = np.bincount(at, minlength=steps)
    sums = np.bincount(at, weights=values, minlength=steps)
    return np.asarray(np.divide(sums, counts, out=np.full(steps, np.nan), where=counts > 0))


def check_size(source: str, vms: int, grid: Grid) -> None:
    """Raises InputError for more steps of VMs than are held at a time."""
    if vms * grid.steps > MAX_CELLS:
        days = grid.steps * grid.step_s / DAY_S
        raise InputError(
            f"{source} has {vms:,} VMs over {days:,.1f} days: {vms * grid.steps:,} steps of {grid.step_s:g} s",
            f"give no more than {MAX_CELLS:,}: fewer VMs, a shorter time (--since), or a longer step (--step)",
        )


def edges(panels: Sequence[Floats]) -> tuple[int, int]:
    """The first step in which any VM has any value, and the step after the last; (0, 0) where there is none."""
    any_value = np.zeros(panels[0].shape[1], np.bool_)
    for panel in panels:
        any_value |= np.isfinite(panel).any(axis=0)
    known = np.flatnonzero(any_value)
    return (int(known[0]), int(known[-1]) + 1) if len(known) else (0, 0)
