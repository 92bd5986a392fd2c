"""Amends rows that are stored in InfluxDB. A value may be written over; to take one away its line is written anew.

Should that be cut off half-way, amending again makes all whole: what marks a row as being there stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from adumbra.schema.records import NANOSECONDS, Ints, MetricBatch
from adumbra.store import influxql, lines
from adumbra.store.influx_rows import VMS_NAMED, named, time_parts
from adumbra.store.influx_series import rows_of
from adumbra.store.influxql import Table, identifier, is_tagged

_ROWS_AT_ONCE = 20_000
_SERIES = ("vm", "subnet", "role")
Ask = Callable[[Sequence[str]], list[list[Table]]]
Delete = Callable[[Iterable[Sequence[str]]], None]
Post = Callable[[Iterable[bytes]], None]


@dataclass(frozen=True, slots=True)
class _Found:
    """Of the batch's rows those that are there, by series S: there, one_sided bool[k, S]; vm int64[S], places in the batch."""

    series: tuple[tuple[str, str, str], ...]
    vm: Ints
    there: NDArray[np.bool_]
    one_sided: NDArray[np.bool_]


def amend(batch: MetricBatch, ask: Ask, delete: Delete, post: Post) -> int:
    """Puts the batch's columns in place of those of stored rows of just these intervals. Returns how many rows were."""
    amended = 0
    length_ns = round(batch.interval_s * NANOSECONDS)
    for start_ns, end_ns in time_parts(batch, 0, length_ns, _ROWS_AT_ONCE):
        inside = (batch.start_ns >= start_ns) & (batch.start_ns < end_ns)
        part = replace(
            batch, start_ns=batch.start_ns[inside], one_sided=batch.one_sided[inside],
            columns={name: values[inside] for name, values in batch.columns.items()},
        )  # fmt: skip
        where = [*is_tagged(interval=lines.interval_tag(length_ns)), *influxql.within(start_ns, end_ns)]
        found = _find(part, where, ask)
        if found.there.any():
            for vms in influxql.in_groups(_losing(part, where, found, ask), VMS_NAMED):
                _take_away(part, [*where, *named(vms)], ask, delete, post)
            post(lines.blocks(_by_series(part, found), found.there))
            amended += int(found.there.sum())
    return amended


def _find(batch: MetricBatch, where: Sequence[str], ask: Ask) -> _Found:
    """The stored rows of the batch's intervals, and under which labels they stand."""
    rows = [*rows_of(batch.network, batch.origin), *where, *named(batch.vms)]
    (tables,) = ask([influxql.select([lines.PRESENT], rows, map(identifier, _SERIES))])
    place = {vm: number for number, vm in enumerate(batch.vms)}
    chosen = [table for table in tables if lines.untag(table.tags["vm"]) in place]
    series = [tuple(lines.untag(table.tags.get(name, "")) for name in _SERIES) for table in chosen]
    there = np.zeros((len(batch), len(chosen)), np.bool_)
    one_sided = np.zeros_like(there)
    for number, table in enumerate(chosen):
        at, is_ours = _places(batch.start_ns, table.time_ns)
        there[at, number] = True
        one_sided[at, number] = table.values[is_ours, 0] > 0.5
    return _Found(tuple(series), np.array([place[vm] for vm, *_ in series], np.int64), there, one_sided)  # type: ignore[arg-type]


def _places(starts_ns: Ints, times_ns: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Where the times are among the starts, and which of them are there."""
    at = np.minimum(np.searchsorted(starts_ns, times_ns), len(starts_ns) - 1)
    is_ours = starts_ns[at] == times_ns
    return at[is_ours], is_ours


def _by_series(batch: MetricBatch, found: _Found) -> MetricBatch:
    """The batch under the labels that its rows are stored with."""
    vms, subnets, roles = zip(*found.series, strict=True)
    columns = {name: values[:, found.vm] for name, values in batch.columns.items()}
    return replace(batch, vms=vms, subnets=subnets, roles=roles, columns=columns, one_sided=found.one_sided)


def _losing(batch: MetricBatch, where: Sequence[str], found: _Found, ask: Ask) -> list[str]:
    """The VMs of which a value is stored where the batch has none."""
    gone = {name: ~np.isfinite(values[:, found.vm]) & found.there for name, values in batch.columns.items()}
    names = [name for name, mask in gone.items() if mask.any()]
    if not names:
        return []
    tags = is_tagged(network=batch.network, origin=batch.origin.value)
    (tables,) = ask([influxql.select(map(identifier, names), [*tags, *where, *named(batch.vms)], map(identifier, _SERIES))])
    place = {key: number for number, key in enumerate(found.series)}
    losing = dict[str, None]()
    for table in tables:
        vm, subnet, role = (lines.untag(table.tags.get(name, "")) for name in _SERIES)
        number = place.get((vm, subnet, role))
        if number is not None:
            at, is_ours = _places(batch.start_ns, table.time_ns)
            stored = np.isfinite(table.values[is_ours])
            if any((stored[:, column] & gone[name][at, number]).any() for column, name in enumerate(names)):
                losing[vm] = None
    return list(losing)


def _take_away(batch: MetricBatch, where: Sequence[str], ask: Ask, delete: Delete, post: Post) -> None:
    """Writes the lines on which the batch's columns may be anew, without these in the batch's intervals."""
    told = sorted(set[str]().union(*(lines.column_tags(name, batch.origin) for name in batch.columns)))
    chosen = [*is_tagged(network=batch.network, origin=batch.origin.value), influxql.any_of("provenance", told), *where]
    (tables,) = ask([influxql.select(["*"], chosen, ["*"])])
    starts, kept = set(batch.start_ns.tolist()), list[bytes]()
    for table in tables:
        tags = {name: lines.untag(value) for name, value in table.tags.items()}
        for time_ns, *values in table.rows:
            fields = dict(zip(table.columns[1:], values, strict=True))
            left = {
                name: value
                for name, value in fields.items()
                if value is not None and not (time_ns in starts and name in batch.columns)
            }
            if left:
                kept.append(lines.line(tags, left, time_ns))
    delete([chosen])
    post([b"".join(kept)] if kept else [])
