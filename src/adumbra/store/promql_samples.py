"""Rolls up samples as a server of the Prometheus family keeps them into cells. Pure; asks nobody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.metrics import Rollup
from adumbra.schema.records import Floats, Ints
from adumbra.store.promql import Points
from adumbra.store.series import interval_of


@dataclass(frozen=True, slots=True)
class Ends:
    """When intervals end, int64[n] in ms, increasing, and how long each is."""

    times_ms: Ints
    lengths_ns: Ints

    @classmethod
    def of(cls, found: Iterable[Points]) -> Self:
        """From the samples of the series that tells the ends."""
        times, lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for points in found:
            times.append(points.times_ms)
            lengths.append(np.full(len(points.times_ms), interval_of(points.labels.get("interval", "")) or 0))
        times_ms, first = np.unique(np.concatenate(times), return_index=True)
        return cls(times_ms, np.concatenate(lengths)[first])

    def lengths_at(self, times_ms: Ints) -> Floats:
        """float64: the length of the interval that ends at each time, 0 where none does."""
        if not len(self.times_ms):
            return np.zeros(len(times_ms))
        at = np.minimum(np.searchsorted(self.times_ms, times_ms), len(self.times_ms) - 1)
        return np.where(self.times_ms[at] == times_ms, self.lengths_ns[at], 0).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Cells:
    """Cell t of each VM is [start + t * step, + step). place: a VM's row.

    Only intervals that begin in [from, to) and are of one of these lengths count.
    """

    place: Mapping[str, int]
    start_ms: int
    step_ms: int
    steps: int
    from_ms: int
    to_ms: int
    lengths_ns: tuple[int, ...]


def roll_up(found: Iterable[Points], ends: Ends, rollup: Rollup, cells: Cells, *, weighted: bool = True) -> dict[str, Floats]:
    """le ("" where there is none) -> float64[V, T]: the cells' values; a mean by the lengths of intervals, or of as many.

    Counts are differences to the sample before, whatever that is; samples that no interval ends at are such only.
    """
    filled: dict[str, _Sums] = {}
    for labels, points in _whole(found).items():
        told = dict(labels)
        row = cells.place.get(told.get("vm", ""))
        if row is None:
            continue
        values = _counts(points.values) if rollup is Rollup.SUM else points.values
        lengths = ends.lengths_at(points.times_ms)
        at = (points.times_ms - cells.start_ms - 1) // cells.step_ms
        begins_ms = points.times_ms - lengths / 1e6
        kept = np.isin(lengths, cells.lengths_ns) & ~np.isnan(values) & (at >= 0) & (at < cells.steps)
        kept &= (begins_ms >= cells.from_ms) & (begins_ms < cells.to_ms)
        into = filled.setdefault(told.get("le", ""), _Sums.empty((len(cells.place), cells.steps)))
        into.add(row, at[kept], values[kept], lengths[kept] if weighted else np.ones(kept.sum()), points.times_ms[kept])
    return {le: each.value(rollup) for le, each in filled.items()}


def _whole(found: Iterable[Points]) -> dict[frozenset[tuple[str, str]], Points]:
    """Each series once, in order of time, each time once; ends of series are no samples."""
    parts: dict[frozenset[tuple[str, str]], list[Points]] = {}
    for points in found:
        parts.setdefault(frozenset(points.labels.items()), []).append(points)
    whole = {}
    for labels, listed in parts.items():
        values = np.concatenate([points.values for points in listed])
        told = ~np.isnan(values)
        times_ms, first = np.unique(np.concatenate([points.times_ms for points in listed])[told], return_index=True)
        whole[labels] = Points(dict(labels), times_ms, values[told][first])
    return whole


def _counts(totals: Floats) -> Floats:
    """What each total is more than the one before; NaN of the first. A fall is a beginning at 0 that was lost."""
    differences = np.diff(totals, prepend=np.nan)
    return np.where(differences < 0, totals, differences)


@dataclass(slots=True)
class _Sums:
    """float64[V, T] each: sums of values, of values times weights, of weights; the highest value, the last one, its time."""

    total: Floats
    weighted: Floats
    weight: Floats
    highest: Floats
    last: Floats
    last_ms: Ints

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Self:
        nothing = np.full(shape, np.nan)
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape), nothing, nothing.copy(), np.zeros(shape, np.int64))

    def add(self, row: int, at: NDArray[np.intp], values: Floats, weights: Floats, times_ms: Ints) -> None:
        np.add.at(self.total[row], at, values)
        np.add.at(self.weighted[row], at, values * weights)
        np.add.at(self.weight[row], at, weights)
        np.fmax.at(self.highest[row], at, values)
        later = times_ms >= self.last_ms[row, at]
        self.last[row, at[later]] = values[later]  # in order of time: the last one stays
        self.last_ms[row, at[later]] = times_ms[later]

    def value(self, rollup: Rollup) -> Floats:
        match rollup:
            case Rollup.SUM:
                return np.where(self.weight > 0, self.total, np.nan)
            case Rollup.MEAN:
                return np.divide(self.weighted, self.weight, out=np.full_like(self.weight, np.nan), where=self.weight > 0)
            case Rollup.LAST:
                return self.last
            case Rollup.MAX:
                return self.highest
