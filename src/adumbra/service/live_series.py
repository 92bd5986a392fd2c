"""Stored metrics on a coarser grid of which each step is known in full: a sum over half a step would pass for half the use.

Reads the metric store; decides nothing about what it reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adumbra.schema.metrics import BY_NAME, Rollup
from adumbra.schema.records import NANOSECONDS, Floats, Origin, SeriesQuery
from adumbra.service.workspace import Workspace

LEAST_STEP_S = 10.0
"""Live counters are read every few seconds, and lie on lines between: a shorter step would compare lines."""
MOST_STEPS = 10_000
_STEPS_S = (10, 15, 30, 60, 120, 300, 600, 1800, 3600)
_CELLS = 10_000_000  # of one read
_MOST_BASE_STEPS = 200_000
_MINUTE_NS = 60 * NANOSECONDS


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps [start_ns + t * step_ns, + step_ns), t < count, at multiples of the step since the epoch, of whole intervals."""

    start_ns: int
    step_ns: int
    count: int
    interval_ns: int

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.count * self.step_ns

    @classmethod
    def within(cls, start_ns: int, end_ns: int, interval_ns: int, step_s: float | None = None) -> Steps:
        """The whole steps between two times. step_s: None for one that suits; one that is no multiple of the interval is
        rounded up to one. Too much time for MOST_STEPS of it makes it longer."""
        least_ns = max(
            round((LEAST_STEP_S if step_s is None else step_s) * NANOSECONDS), interval_ns, (end_ns - start_ns) // MOST_STEPS
        )
        nice = (round(each * NANOSECONDS) for each in _STEPS_S)
        step_ns = -(-least_ns // interval_ns) * interval_ns
        if step_s is None or least_ns > step_s * NANOSECONDS:
            step_ns = next((each for each in nice if each >= least_ns and each % interval_ns == 0), step_ns)
        first_ns = -(-start_ns // step_ns) * step_ns
        return cls(first_ns, step_ns, max(0, (end_ns - first_ns) // step_ns), interval_ns)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be read: columns of some VMs of a network, of its shadow or of the real ones."""

    network: str
    vms: Sequence[str]
    columns: Sequence[str]
    origin: Origin = Origin.SHADOW


def complete(workspace: Workspace, wanted: Wanted, steps: Steps) -> Iterator[tuple[str, Mapping[str, Floats]]]:
    """Each VM's columns, float64[T], rolled up as the catalogue says; NaN for a step that isn't known in full. A few VMs are
    read at a time."""
    base_ns = steps.interval_ns
    if steps.count * steps.step_ns // base_ns > _MOST_BASE_STEPS and steps.step_ns % _MINUTE_NS == 0 == _MINUTE_NS % base_ns:
        base_ns = _MINUTE_NS  # of days, the minutes
    each, vms, columns = steps.step_ns // base_ns, wanted.vms, wanted.columns
    at_once = max(1, _CELLS // max(1, steps.count * each * (len(columns) + 1)))
    for first in range(0, len(vms), at_once):
        some = tuple(vms[first : first + at_once])
        query = SeriesQuery(
            wanted.network, tuple(columns), some, steps.start_ns, steps.end_ns, base_ns / NANOSECONDS, wanted.origin
        )
        series = workspace.metrics.read(query)
        offset = (series.start_ns - steps.start_ns) // base_ns
        for row, vm in enumerate(series.vms):
            found = {}
            for name in columns:
                values = np.full(steps.count * each, np.nan)
                known = series.values[name][row]
                there = slice(max(0, offset), max(0, min(len(values), offset + len(known))))
                values[there] = known[there.start - offset : there.stop - offset]
                found[name] = _rolled_up(values.reshape(steps.count, each), BY_NAME[name].rollup)
            yield vm, found


def _rolled_up(values: Floats, how: Rollup) -> Floats:
    """float64[T] of float64[T, n]: one NaN makes a step NaN, as it does in a sum, a mean, and a maximum."""
    if how is Rollup.SUM:
        return np.asarray(values.sum(axis=1))
    if how is Rollup.MEAN:
        return np.asarray(values.mean(axis=1))
    if how is Rollup.MAX:
        return np.asarray(values.max(axis=1)) if values.size else np.zeros(len(values))
    return np.asarray(np.where(np.isfinite(values).all(axis=1), values[:, -1], np.nan))
