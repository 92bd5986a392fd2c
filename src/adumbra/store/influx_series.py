"""Reads series from InfluxDB, rolled up by the server, in answers of bounded length. Writes nothing."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adumbra.schema.metrics import Metric, Provenance, Rollup
from adumbra.schema.records import NANOSECONDS, Floats, Ints, Origin, Series, SeriesQuery
from adumbra.store import influxql
from adumbra.store.grid import Grid, Stored, check_size, known_metrics, known_vms, plan_grid
from adumbra.store.influx_client import InfluxClient
from adumbra.store.influx_rows import VMS_NAMED
from adumbra.store.influxql import Table, identifier, is_tagged
from adumbra.store.lines import PRESENT, column_tags, interval_ns, interval_tag, untag
from adumbra.store.names import natural_order

_VALUES_AT_ONCE = 1_000_000
_COLUMNS_AT_ONCE = 24


def rows_of(network: str, origin: Origin | None = None) -> list[str]:
    """The conditions for the points that mark the rows of a network, of either or of both origins."""
    origins = {} if origin is None else {"origin": origin.value}
    return is_tagged(network=network, **origins, provenance=Provenance.OBSERVED.value)


class Reader:
    """Asks one server for series."""

    def __init__(self, client: InfluxClient) -> None:
        self._client = client

    def vms(self, network: str) -> tuple[str, ...]:
        """See MetricStore.vms."""
        (tables,) = self._client.ask([_vms(network)])
        return _names(tables)

    def stored(self, network: str, origin: Origin, start_ns: int | None = None, end_ns: int | None = None) -> list[Stored]:
        """What there is of each interval length, in a range or at all."""
        return _stored(self._client.ask(_extremes(network, origin, start_ns, end_ns)))

    def count(self, network: str) -> int:
        """How many rows there are of a network."""
        (tables,) = self._client.ask([influxql.select([f"COUNT({identifier(PRESENT)})"], rows_of(network))])
        return sum(int(table.values.sum()) for table in tables)

    def read(self, query: SeriesQuery) -> Series:
        """See MetricStore.read, and plan_grid for the rule where stored intervals differ in length."""
        metrics = known_metrics(query.columns)
        few = query.vms if len(query.vms) <= VMS_NAMED else ()
        extremes = _extremes(query.network, query.origin, query.start_ns, query.end_ns)
        listed, *told = self._client.ask([_vms(query.network, few), *extremes])
        known, stored = _names(listed), _stored(told)
        if few and set(few) - set(known):
            known, few = self.vms(query.network), ()
        vms = known_vms(query.network, query.vms, known) if known else query.vms
        grid = Grid(query.start_ns or 0, round((query.step_s or 1.0) * NANOSECONDS), 0, ())
        if stored:
            grid = plan_grid(query, stored)
            check_size(query, grid, len(vms))
        cells = _Cells(vms, grid, everyone=not few and set(vms) == set(known))
        for question in _questions(query, metrics, cells) if stored else ():
            (tables,) = self._client.ask([question.text])
            cells.put(question, tables)
        return Series(
            query.network, vms, grid.start_ns, grid.step_ns / NANOSECONDS,
            {metric.name: cells.taken(metric.name) for metric in metrics}, cells.taken(PRESENT),
        )  # fmt: skip


def _vms(network: str, few: Sequence[str] = ()) -> str:
    """A point of each VM, or of each of a few, as the index of tags may tell of some whose points are deleted."""
    where = [*rows_of(network), *([influxql.any_of("vm", few)] if few else [])]
    return influxql.select([f"LAST({identifier(PRESENT)})"], where, ['"vm"'])


def _names(tables: Sequence[Table]) -> tuple[str, ...]:
    return natural_order({untag(table.tags.get("vm", "")) for table in tables})


def _extremes(network: str, origin: Origin, start_ns: int | None, end_ns: int | None) -> list[str]:
    where = [*rows_of(network, origin), *influxql.within(start_ns, end_ns)]
    return [influxql.select([f"{which}({identifier(PRESENT)})"], where, ['"interval"']) for which in ("FIRST", "LAST")]


def _stored(extremes: Sequence[Sequence[Table]]) -> list[Stored]:
    firsts, lasts = ({interval_ns(t.tags["interval"]): int(t.time_ns[0]) for t in tables} for tables in extremes)
    return [Stored(length, firsts[length], lasts[length]) for length in sorted(firsts.keys() & lasts.keys())]


@dataclass(frozen=True, slots=True)
class _Question:
    """A statement, and which columns its answer tells; weighed: each by a mean and a count, for each interval."""

    text: str
    names: tuple[str, ...]
    weighed: bool


def _questions(query: SeriesQuery, metrics: Sequence[Metric], cells: _Cells) -> Iterator[_Question]:
    """Statements that together tell all cells, each of some columns, VMs and stretch of time.

    Columns on other lines are asked for apart: InfluxDB is several times as fast where it needn't look at all of a VM's.
    """
    grid = cells.grid
    intervals = influxql.any_of("interval", map(interval_tag, grid.intervals_ns))
    common = [*is_tagged(network=query.network, origin=query.origin.value), intervals]
    for (told, weighed, calls), named in itertools.product(_calls(query.origin, metrics, grid), cells.groups()):
        by = ['"vm"', influxql.cells(grid.step_ns, grid.start_ns)] + (['"interval"'] if weighed else [])
        on_lines = [*common, influxql.any_of("provenance", told), *([influxql.any_of("vm", named)] if named else [])]
        for start_ns, end_ns in cells.stretches(query, len(calls), len(named) or len(cells.vms)):
            where = [*on_lines, *influxql.within(start_ns, end_ns)]
            text = f"{influxql.select([call for call, _ in calls], where, by)} fill(none)"
            yield _Question(text, tuple(name for _, name in calls), weighed)


def _calls(origin: Origin, metrics: Sequence[Metric], grid: Grid) -> list[tuple[tuple[str, ...], bool, list[tuple[str, str]]]]:
    """What is asked for at once: on lines of which provenances, whether weighed, each call and its column."""
    differ = len(grid.intervals_ns) > 1
    found = defaultdict[tuple[tuple[str, ...], bool], list[tuple[str, str]]](list)
    found[(Provenance.OBSERVED.value,), False].append((f"MEAN({identifier(PRESENT)})", PRESENT))
    for metric in metrics:
        told = tuple(sorted(column_tags(metric.name, origin)))
        if differ and metric.rollup is Rollup.MEAN:
            found[told, True] += [(f"{call}({identifier(metric.name)})", metric.name) for call in ("MEAN", "COUNT")]
        else:
            found[told, False].append((influxql.rolled_up(metric), metric.name))
    return [
        (told, weighed, calls[first : first + _COLUMNS_AT_ONCE])
        for (told, weighed), calls in found.items()
        for first in range(0, len(calls), _COLUMNS_AT_ONCE)
    ]


class _Cells:
    """The grid's values, by column, as answers fill them."""

    def __init__(self, vms: tuple[str, ...], grid: Grid, *, everyone: bool) -> None:
        self.vms, self.grid, self._everyone = vms, grid, everyone
        self._place = {vm: number for number, vm in enumerate(vms)}
        self._filled = dict[str, Floats]()
        self._weights = dict[str, Floats]()

    def groups(self) -> list[Sequence[str]]:
        """The VMs that a statement names; an empty group names none, and so asks for all."""
        return [()] if self._everyone else list(influxql.in_groups(self.vms, VMS_NAMED))

    def stretches(self, query: SeriesQuery, columns: int, vms: int) -> Iterator[tuple[int, int]]:
        """The queried time in pieces of whole cells."""
        grid = self.grid
        steps = max(1, _VALUES_AT_ONCE // max(1, columns * vms * len(grid.intervals_ns)))
        end_ns = grid.start_ns + grid.steps * grid.step_ns
        for start_ns in range(grid.start_ns, end_ns, steps * grid.step_ns):
            until_ns = min(start_ns + steps * grid.step_ns, end_ns)
            yield (
                start_ns if query.start_ns is None else max(start_ns, query.start_ns),
                until_ns if query.end_ns is None else min(until_ns, query.end_ns),
            )

    def put(self, question: _Question, tables: Sequence[Table]) -> None:
        """Takes an answer in. What is outside the grid, or of other VMs, was not asked for and is left."""
        for table in tables:
            vm = self._place.get(untag(table.tags.get("vm", "")))
            steps = (table.time_ns - self.grid.start_ns) // self.grid.step_ns
            inside = (steps >= 0) & (steps < self.grid.steps)
            if vm is not None:
                values = table.values[inside]
                if question.weighed:
                    self._weigh(vm, steps[inside], values, question.names, interval_ns(table.tags["interval"]))
                else:
                    for name, column in zip(question.names, values.T, strict=True):
                        self._of(self._filled, name)[vm, steps[inside]] = column

    def _weigh(self, vm: int, steps: Ints, values: Floats, names: Sequence[str], length_ns: int) -> None:
        for place in range(0, len(names), 2):
            means, weights = values[:, place], values[:, place + 1] * length_ns
            known = ~np.isnan(means)
            at = vm, steps[known]
            total, weight = self._of(self._filled, names[place]), self._of(self._weights, names[place])
            total[at] = np.nan_to_num(total[at]) + means[known] * weights[known]
            weight[at] = np.nan_to_num(weight[at]) + weights[known]

    def taken(self, name: str) -> Floats:
        """A column: float64[V, T]."""
        filled = self._of(self._filled, name)
        return filled / self._weights[name] if name in self._weights else filled

    def _of(self, held: dict[str, Floats], name: str) -> Floats:
        if name not in held:
            held[name] = np.full((len(self.vms), self.grid.steps), np.nan)
        return held[name]
