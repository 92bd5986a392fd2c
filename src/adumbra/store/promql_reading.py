"""Reads series back from the Prometheus family: the server rolls up what it can, and the rest is done here from its samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.metrics import Rollup
from adumbra.schema.records import NANOSECONDS, Floats, Origin, Series, SeriesQuery
from adumbra.store.grid import Grid, Stored, check_size, known_metrics, known_vms, plan_grid
from adumbra.store.names import natural_order
from adumbra.store.promql import FOREVER_MS, MOST_STEPS, Api, Points, TooMuchError
from adumbra.store.promql_expressions import BEFORE_MS, Chosen, Family, cells, falls, families, present
from adumbra.store.promql_samples import Cells, Ends, roll_up
from adumbra.store.series import INTERVAL_END, ONE_SIDED, interval_label, interval_of, matcher, quoted

_MS = 1_000_000
_MOST_POINTS = 500_000
"""About how many numbers one answer may have."""
_MOST_LENGTHS = 64
_BEGINNING_MS = 86_400_000  # a day after the epoch: VictoriaMetrics answers nothing to ranges that reach to before it
_END_MS = FOREVER_MS - 86_400_000
Marks = NDArray[np.bool_]


class Reader:
    """Reads what a PrometheusStore wrote. Keeps nothing."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def vms(self, network: str) -> tuple[str, ...]:
        """See MetricStore.vms. The index may still name VMs whose samples were deleted: those are looked at one by one."""
        selector = f"{ONE_SIDED}{{network={quoted(network)}}}"
        named = set(self._api.label_values("vm", selector))
        spans = [span for span in (self.span(network, origin) for origin in Origin) if span is not None] if named else []
        if not spans:
            return ()
        there = set[str]()
        longest_ms = max(self._lengths_ms(network), default=0)
        for _, end_ns in spans:
            told = f"count by (vm) (last_over_time({selector}[{2 * longest_ms}ms]))"
            there |= _vms_in(self._api.instant(told, end_ns // _MS, len(named)))
        if rest := sorted(named - there):
            some = f"{ONE_SIDED}{{network={quoted(network)},{matcher('vm', rest)}}}"
            there |= set(self._count(some, "vm", len(rest), _BEGINNING_MS, FOREVER_MS))
        return natural_order(there & named)

    def rows(self, network: str) -> int:
        """How many (vm, interval) rows there are of the network."""
        return sum(self._count(f"{ONE_SIDED}{{network={quoted(network)}}}", "network", 1, _BEGINNING_MS, FOREVER_MS).values())

    def _count(self, selector: str, label: str, series: int, from_ms: int, to_ms: int) -> dict[str, int]:
        """The samples of each value of a label; in parts, where they are too many for one question."""
        told = f"sum by ({label}) (count_over_time({selector}[{to_ms - from_ms}ms]))"
        try:
            found = self._api.instant(told, to_ms, series)
            return {points.labels.get(label, ""): int(np.nansum(points.values)) for points in found}
        except TooMuchError:
            if to_ms - from_ms < 3_600_000:
                raise
        middle_ms = (from_ms + to_ms) // 2
        counts = [self._count(selector, label, series, *part) for part in ((from_ms, middle_ms), (middle_ms, to_ms))]
        return {name: sum(each.get(name, 0) for each in counts) for name in counts[0].keys() | counts[1].keys()}

    def span(self, network: str, origin: Origin = Origin.SHADOW) -> tuple[int, int] | None:
        """See MetricStore.span."""
        stored = self._stored(SeriesQuery(network, (), origin=origin))
        if not stored:
            return None
        return min(rows.first_ns for rows in stored), max(rows.last_ns + rows.interval_ns for rows in stored)

    def delete(self, network: str) -> bool:
        """Deletes all series of a network. Whether the server lets us."""
        return self._api.delete(f'{{__name__=~"adumbra_(vm|network)_.+",network={quoted(network)}}}')

    def can_delete(self) -> bool:
        return self._api.delete(None)

    def read(self, query: SeriesQuery) -> Series:
        """See MetricStore.read, and plan_grid for the rule where stored intervals differ in length."""
        metrics = known_metrics(query.columns)
        known = self.vms(query.network)
        vms = known_vms(query.network, query.vms, known) if known else query.vms
        stored = self._stored(query) if known else []
        if not stored:
            step_ns = round((query.step_s or 1.0) * NANOSECONDS)
            nothing = np.full((len(vms), 0), np.nan)
            values = dict.fromkeys((metric.name for metric in metrics), nothing)
            return Series(query.network, vms, query.start_ns or 0, step_ns / NANOSECONDS, values, nothing)
        grid = plan_grid(query, stored)
        check_size(query, grid, len(vms))
        chosen = Chosen(query.network, query.origin.value, vms if len(vms) < len(known) else ())
        filling = _Filling(self._api, chosen, {vm: place for place, vm in enumerate(vms)}, grid, *_range_ms(query))
        lengths = (
            {rows.interval_ns // _MS: filling.lasting(rows.interval_ns // _MS) for rows in stored} if len(stored) > 1 else {}
        )
        gaps, mixed, others = _told_apart(lengths, grid)
        values = {}
        for family, columns in families(metrics):
            by_le = filling.family(family, others | mixed if family.rollup is Rollup.MEAN else others)
            values |= {metric.name: by_le[le] / metric.scale for le, metric in columns.items()}
        one_sided = filling.shares(others)
        for each in (*values.values(), one_sided):
            each[:, gaps] = np.nan
        return Series(query.network, vms, grid.start_ns, grid.step_ns / NANOSECONDS, values, one_sided)

    def _stored(self, query: SeriesQuery) -> list[Stored]:
        """The lengths of the network's intervals in the queried range, and from where to where each reaches."""
        found = []
        for length_ms in self._lengths_ms(query.network):
            from_ms, to_ms = _range_ms(query)
            selector = _ends_of(query.network, query.origin.value, length_ms)
            if reach := self._reach(selector, from_ms + length_ms, to_ms + length_ms - 1):
                first_ms, last_ms = (end_ms - length_ms for end_ms in reach)
                found.append(Stored(length_ms * _MS, first_ms * _MS, last_ms * _MS))
        return found

    def _lengths_ms(self, network: str) -> list[int]:
        named = self._api.label_values("interval", f"{INTERVAL_END}{{network={quoted(network)}}}")
        lengths = {interval_of(label) for label in named[:_MOST_LENGTHS]}
        return sorted(length // _MS for length in lengths if length is not None and length >= _MS)

    def _reach(self, selector: str, from_ms: int, to_ms: int) -> tuple[int, int] | None:
        """The first and last end of an interval in [from, to]; in parts, where its samples are too many for one question."""
        if from_ms > to_ms:
            return None
        try:
            reach = self._extremes(selector, to_ms - from_ms + BEFORE_MS, to_ms)
        except TooMuchError:
            if to_ms - from_ms < 3_600_000:
                raise
        else:
            if reach is not None and reach[0] < from_ms:  # one that lies just before; the next can't follow as soon
                reach = self._extremes(selector, to_ms - reach[0] - BEFORE_MS, to_ms)
            return reach
        middle_ms = (from_ms + to_ms) // 2
        parts = self._reach(selector, from_ms, middle_ms), self._reach(selector, middle_ms + 1, to_ms)
        ends = [end for part in parts if part is not None for end in part]
        return (min(ends), max(ends)) if ends else None

    def _extremes(self, selector: str, length_ms: int, at_ms: int) -> tuple[int, int] | None:
        if length_ms < 1:
            return None
        both = []
        for name in ("min", "max"):
            found = self._api.instant(f"{name} ({name}_over_time({selector}[{length_ms}ms]))", at_ms, 1)
            if not found or not np.isfinite(found[0].values).all():
                return None
            both.append(round(float(found[0].values[0]) * 1000))
        return both[0], both[1]


@dataclass(frozen=True, slots=True)
class _Filling:
    """The filling of a grid's cells. place: a VM's row. from_ms, to_ms: when the intervals that count begin, [from, to)."""

    api: Api
    chosen: Chosen
    place: Mapping[str, int]
    grid: Grid
    from_ms: int
    to_ms: int

    @property
    def step_ms(self) -> int:
        return self.grid.step_ns // _MS

    @property
    def start_ms(self) -> int:
        return self.grid.start_ns // _MS

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.place), self.grid.steps

    @property
    def cut(self) -> Marks:
        """bool[V, T]: the cells that the queried range begins or ends within."""
        marks = np.zeros(self.shape, np.bool_)
        if self.grid.rolls_up:
            marks[:, 0] = self.start_ms < self.from_ms
            marks[:, -1] |= self.start_ms + self.grid.steps * self.step_ms > self.to_ms
        return marks

    def family(self, family: Family, doubted: Marks) -> dict[str, Floats]:
        """Each `le` -> float64[V, T]. doubted: bool[T], cells that the server can't roll up."""
        selector = self.chosen.of(family.name, family.les)
        values = {le: np.full(self.shape, np.nan) for le in family.les}
        doubtful = self.cut | doubted
        for points, at in self._asked(cells(selector, family.rollup, self.step_ms), len(family.les)):
            into, row = values.get(points.labels.get("le", "")), self.place.get(points.labels.get("vm", ""))
            if into is None or row is None:
                continue
            told = ~np.isnan(points.values)
            doubtful[row, at] |= told & ~np.isnan(into[row, at])  # a VM that has changed its labels
            into[row, at] = np.where(told, points.values, into[row, at])
        if family.rollup is Rollup.SUM:
            for points, at in self._asked(falls(selector, self.step_ms), len(family.les)):
                if (row := self.place.get(points.labels.get("vm", ""))) is not None:
                    doubtful[row, at] |= points.values > 0
        self._from_samples(family, doubtful, values)
        return values

    def shares(self, doubted: Marks) -> Floats:
        """float64[V, T]: the share of each cell's intervals in which only one side was seen."""
        values = np.full(self.shape, np.nan)
        for points, at in self._asked(cells(self.chosen.of(ONE_SIDED), Rollup.MEAN, self.step_ms), 1):
            if (row := self.place.get(points.labels.get("vm", ""))) is not None:
                values[row, at] = points.values
        self._from_samples(Family(ONE_SIDED, Rollup.MEAN), self.cut | doubted, {"": values}, weighted=False)
        return values

    def lasting(self, length_ms: int) -> Marks:
        """bool[T]: the cells in which intervals of this length end."""
        marks = np.zeros(self.grid.steps, np.bool_)
        selector = _ends_of(self.chosen.network, self.chosen.origin, length_ms)
        for points, at in self._asked(present(selector, self.step_ms), 1):
            marks[at] |= points.values > 0
        return marks

    def _asked(self, expression: str, columns: int) -> Iterator[tuple[Points, NDArray[np.intp]]]:
        """The series of an expression on the grid, in parts of bounded size, with the step of each of their points."""
        series = max(1, len(self.place)) * columns
        at_once = max(1, min(MOST_STEPS, _MOST_POINTS // series))
        for first in range(0, self.grid.steps, at_once):
            yield from self._part(expression, first, min(at_once, self.grid.steps - first), series)

    def _part(self, expression: str, first: int, steps: int, series: int) -> Iterator[tuple[Points, NDArray[np.intp]]]:
        try:
            found = self.api.range(expression, self.start_ms + (first + 1) * self.step_ms, self.step_ms, steps, series)
        except TooMuchError:
            if steps == 1:
                raise
            yield from self._part(expression, first, steps // 2, series)
            yield from self._part(expression, first + steps // 2, steps - steps // 2, series)
            return
        for points in found:
            at, off = np.divmod(points.times_ms - self.start_ms, self.step_ms)
            known = (off == 0) & (at > first) & (at <= first + steps)
            yield Points(points.labels, points.times_ms[known], points.values[known]), at[known] - 1

    def _from_samples(self, family: Family, doubtful: Marks, values: Mapping[str, Floats], *, weighted: bool = True) -> None:
        """Fills the doubtful cells from the samples themselves, as many at a time as an answer may hold."""
        rows = self.grid.step_ns // min(self.grid.intervals_ns) + 1
        les = family.les
        vms = [vm for vm, place in self.place.items() if doubtful[place].any()]
        vms_at_once = max(1, _MOST_POINTS // (rows * len(les)))
        for part in (vms[first : first + vms_at_once] for first in range(0, len(vms), vms_at_once)):
            place = {vm: row for row, vm in enumerate(part)}
            among = doubtful[[self.place[vm] for vm in part]]
            whole = len(part) == len(self.place)
            selector = (self.chosen if whole else replace(self.chosen, vms=tuple(part))).of(family.name, les)
            for first, steps in _runs(among.any(axis=0), max(1, vms_at_once // len(part))):
                points = 2 * rows * steps
                found = self._samples(selector, first, steps, points * len(part) * len(les))
                ends = Ends.of(self._samples(self.chosen.all_vms().of(INTERVAL_END), first, steps, points))
                start_ms = self.start_ms + first * self.step_ms
                cells = Cells(place, start_ms, self.step_ms, steps, self.from_ms, self.to_ms, self.grid.intervals_ns)
                rolled = roll_up(found, ends, family.rollup, cells, weighted=weighted)
                for le, into in values.items():
                    told = rolled.get(le, np.full((len(part), steps), np.nan))
                    for vm, row in place.items():
                        marks = among[row, first : first + steps]
                        into[self.place[vm], first : first + steps][marks] = told[row][marks]

    def _samples(self, selector: str, first: int, steps: int, points: int) -> list[Points]:
        """All samples in some cells, and just before them."""
        until_ms = self.start_ms + (first + steps) * self.step_ms
        series = 2 * max(1, len(self.place))
        return self.api.instant(f"{selector}[{steps * self.step_ms + BEFORE_MS}ms]", until_ms, series, points)


def _runs(marks: Any, at_once: int) -> Iterator[tuple[int, int]]:
    """Stretches of marked cells: the first, and how many."""
    first = 0
    while first < len(marks):
        if not marks[first]:
            first += 1
            continue
        steps = 1
        while steps < at_once and first + steps < len(marks) and marks[first + steps]:
            steps += 1
        yield first, steps
        first += steps


def _range_ms(query: SeriesQuery) -> tuple[int, int]:
    """When the intervals in a query's range begin: [from, to) in ms."""
    from_ms = _BEGINNING_MS if query.start_ns is None else max(_BEGINNING_MS, -(-query.start_ns // _MS))
    to_ms = _END_MS if query.end_ns is None else min(_END_MS, -(-query.end_ns // _MS))
    return from_ms, to_ms


def _told_apart(lengths: Mapping[int, Marks], grid: Grid) -> tuple[Marks, Marks, Marks]:
    """bool[T] each: cells where no interval ends that the step holds; where some of several lengths do; where others do too."""
    other, counts = np.zeros(grid.steps, np.bool_), np.zeros(grid.steps, np.int64)
    for length_ms, marks in lengths.items():
        if length_ms * _MS in grid.intervals_ns:
            counts += marks
        else:
            other |= marks
    return (counts == 0) & bool(lengths), counts > 1, other & (counts > 0)


def _ends_of(network: str, origin: str, length_ms: int) -> str:
    return f"{INTERVAL_END}{{network={quoted(network)},origin={quoted(origin)},interval={quoted(interval_label(length_ms))}}}"


def _vms_in(found: list[Points]) -> set[str]:
    return {points.labels["vm"] for points in found if "vm" in points.labels}
