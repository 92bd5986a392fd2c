"""Histories of use for tests of the risk: drawn by hypothesis, of every kind that is met and some that shouldn't be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from adumbra.forecast.risk.layout import Shape
from adumbra.schema.backtests import MeasuredUse
from adumbra.schema.records import NANOSECONDS, Floats, Panel

FLOOR = 0.05
KINDS = ("noise", "few values", "season", "zero", "constant", "spike", "nothing", "gone", "late", "idle")


def history(kind: str, steps: int, day: int, rng: np.random.Generator) -> Floats:
    """One VM's use, float64[steps]."""
    at = np.arange(steps)
    values = rng.gamma(2.0, 0.5, steps)
    match kind:
        case "few values":
            values = np.round(values)
        case "season":
            values = 1 + np.sin(2 * np.pi * at / day) * (at // day % 7 < 5) + 0.1 * values
        case "zero":
            values = np.zeros(steps)
        case "constant":
            values = np.full(steps, 0.7)
        case "spike":
            values = np.full(steps, 0.1)
            values[rng.integers(max(steps, 1), size=1 if steps else 0)] = 9.0
        case "nothing":
            values = np.full(steps, np.nan)
        case "gone":
            values[steps // 3 :] = np.nan
        case "late":
            values[: steps - steps // 20 - 1] = np.nan
        case "idle":
            values *= rng.random(steps) < 0.05
    return values


@dataclass(frozen=True)
class Case:
    """One VM, looked at once. capacity: None where it isn't known."""

    values: Floats
    begin: int
    origin: int
    shape: Shape
    capacity: float | None
    start_ns: int

    def use(self) -> MeasuredUse:
        panel = Panel("cpu_cores", ("vm",), self.start_ns, self.shape.step_s, self.values[np.newaxis])
        return MeasuredUse(panel, np.array([np.nan if self.capacity is None else self.capacity]))

    def past(self) -> Floats:
        return self.values[max(self.begin, self.origin - 60 * self.shape.day) : self.origin]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    step_s = draw(st.sampled_from((3600.0, 2400.0, 1800.0)))
    day = round(86_400 / step_s)
    days = draw(st.one_of(st.integers(0, 3), st.integers(4, 65)))
    steps = days * day + draw(st.integers(0, day))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = history(draw(st.sampled_from(KINDS)), steps, day, rng)
    values[rng.random(steps) < draw(st.sampled_from((0.0, 0.0, 0.1, 0.5, 0.95)))] = np.nan
    origin = draw(st.one_of(st.just(steps), st.integers(0, steps)))
    begin = draw(st.one_of(st.just(0), st.integers(0, origin)))
    held = draw(st.sampled_from((1, 5, day - 1, day, day + 3, 3 * day)))
    capacity = draw(st.sampled_from((None, FLOOR / 5, 0.7, 1.0, 3.0, 50.0)))
    start_ns = draw(st.integers(0, 2**31 // 1800)) * 1800 * NANOSECONDS
    return Case(values, begin, origin, Shape(step_s, held, FLOOR), capacity, start_ns)


def fleet(vms: int, days: int, seed: int = 3, step_s: float = 3600.0) -> MeasuredUse:
    """Machines that are alike in kind but not in size, and of which bursts come by chance: something to learn from."""
    rng = np.random.default_rng(seed)
    day = round(86_400 / step_s)
    steps = days * day
    scale = rng.lognormal(0.0, 1.0, (vms, 1))
    season = 1 + 0.6 * np.sin(2 * np.pi * (np.arange(steps) / day + rng.random((vms, 1))))
    values = scale * season * rng.lognormal(0.0, 0.25, (vms, steps))
    values += 3 * scale * (rng.random((vms, steps)) < 0.02)
    panel = Panel("cpu_cores", tuple(f"vm-{number}" for number in range(vms)), 1_704_067_200 * NANOSECONDS, step_s, values)
    return MeasuredUse(panel, np.ceil(scale[:, 0] * 6))
