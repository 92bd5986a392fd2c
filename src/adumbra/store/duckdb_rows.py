"""Rows of metrics in the embedded store's tables, and the books on them: ids, runs, what is due, what is kept.

Works within the caller's transaction. Never decides what a metric means and never reads a clock.
"""

# The names and numbers put into SQL below come from the catalogue, the grid and the books; what users give is bound. So:
# ruff: noqa: S608

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from adumbra.schema.metrics import Metric
from adumbra.schema.records import Ints, MetricBatch
from adumbra.store.grid import Grid
from adumbra.store.levels import EVER, LEVELS, NEVER, RAW, ROLLED, Kept, Source
from adumbra.store.names import storable
from adumbra.store.ranges import Run, Span, joined, outward, runs_of, union, without
from adumbra.store.rollups import ready, value

Ids = NDArray[np.int32]

_INSERT_ROWS = 200_000
_LISTED_VMS = 100


# --- ids


def network_id(connection: duckdb.DuckDBPyConnection, network: str, origin: str) -> int | None:
    """The id of a network's origin; None where nothing is stored of it."""
    found = connection.execute("SELECT id FROM networks WHERE network = ? AND origin = ?", [network, origin]).fetchall()
    return found[0][0] if found else None


def make_network(connection: duckdb.DuckDBPyConnection, network: str, origin: str) -> int:
    ((made,),) = connection.execute(
        "INSERT INTO networks SELECT coalesce(max(id), -1) + 1, ?, ? FROM networks RETURNING id", [network, origin]
    ).fetchall()
    return int(made)


def vm_ids(connection: duckdb.DuckDBPyConnection, network: int, names: Sequence[str] = ()) -> dict[str, int]:
    """The ids of a network's VMs: of all, or of those of these names that there are."""
    of_names = f" AND vm IN ({', '.join('?' * len(names))})" if names else ""
    return dict(connection.execute(f"SELECT vm, id FROM vms WHERE network = ?{of_names}", [network, *names]).fetchall())


def make_vms(connection: duckdb.DuckDBPyConnection, network: int, names: Sequence[str]) -> None:
    with registered(connection, "fresh", {"vm": strings(names), "place": np.arange(1, len(names) + 1)}):
        connection.execute(
            "INSERT INTO vms SELECT (SELECT coalesce(max(id), -1) FROM vms) + place, ?, vm FROM fresh", [network]
        )


def epoch(connection: duckdb.DuckDBPyConnection) -> int:
    """How often VMs went: ids that were looked up in another epoch may be nobody's."""
    ((number,),) = connection.execute("SELECT epoch FROM adumbra_store").fetchall()
    return int(number)


# --- books


def runs_near(connection: duckdb.DuckDBPyConnection, network: int, span: Span = (EVER, NEVER)) -> list[Run]:
    """The runs that overlap or touch a span."""
    rows = connection.execute(
        "SELECT interval_ns, first_ns, end_ns FROM runs WHERE network = ? AND end_ns >= ? AND first_ns <= ?", [network, *span]
    ).fetchall()
    return sorted(Run(*row) for row in rows)


def extent(connection: duckdb.DuckDBPyConnection, network: int) -> tuple[int, int, int] | None:
    """The first beginning, the last end and the longest of a network's intervals; None where there is none."""
    (row,) = connection.execute(
        "SELECT min(first_ns), max(end_ns), max(interval_ns) FROM runs WHERE network = ?", [network]
    ).fetchall()
    return None if row[0] is None else row


def put_runs(connection: duckdb.DuckDBPyConnection, network: int, old: Iterable[Run], new: Iterable[Run]) -> None:
    """Puts runs in the place of others. That one goes on is an update: it comes with every write."""
    gone, come = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    if len(gone) == len(come) == 1 and (gone[0].interval_ns, gone[0].first_ns) == (come[0].interval_ns, come[0].first_ns):
        connection.execute(
            "UPDATE runs SET end_ns = ? WHERE network = ? AND interval_ns = ? AND first_ns = ?",
            [come[0].end_ns, network, come[0].interval_ns, come[0].first_ns],
        )
        return
    if gone:
        with registered(connection, "gone", _columns_of(gone)):
            connection.execute(
                "DELETE FROM runs USING gone WHERE runs.network = ? AND runs.interval_ns = gone.interval_ns "
                "AND runs.first_ns = gone.first_ns",
                [network],
            )
    if come:
        with registered(connection, "come", _columns_of(come)):
            connection.execute("INSERT INTO runs SELECT ?, interval_ns, first_ns, end_ns FROM come", [network])


def _columns_of(runs: Sequence[Run]) -> dict[str, Ints]:
    return {name: np.array([getattr(run, name) for run in runs]) for name in ("interval_ns", "first_ns", "end_ns")}


def due_spans(connection: duckdb.DuckDBPyConnection, network: int) -> dict[int, list[Span]]:
    """What is to be rolled up, by the length of the level's cells, of which it is whole ones."""
    rows = connection.execute("SELECT length_ns, first_ns, end_ns FROM due WHERE network = ?", [network]).fetchall()
    return {level.length_ns: union((a, b) for length, a, b in rows if length == level.length_ns) for level in ROLLED}


def put_due(connection: duckdb.DuckDBPyConnection, network: int, length_ns: int, old: list[Span], new: list[Span]) -> None:
    if old == new:
        return
    if len(old) == len(new) == 1:
        connection.execute(
            "UPDATE due SET first_ns = ?, end_ns = ? WHERE network = ? AND length_ns = ?", [*new[0], network, length_ns]
        )
        return
    connection.execute("DELETE FROM due WHERE network = ? AND length_ns = ?", [network, length_ns])
    if new:
        columns = {"first_ns": np.array([first for first, _ in new]), "end_ns": np.array([end for _, end in new])}
        with registered(connection, "come", columns):
            connection.execute("INSERT INTO due SELECT ?, ?, first_ns, end_ns FROM come", [network, length_ns])


def mark_due(connection: duckdb.DuckDBPyConnection, network: int, span: Span) -> None:
    """Notes that what lies in a span isn't as it was when it was rolled up, if it was."""
    for length_ns, old in due_spans(connection, network).items():
        put_due(connection, network, length_ns, old, union([*old, outward(span, length_ns)]))


def kept_of(connection: duckdb.DuckDBPyConnection, network: int) -> Kept:
    found = dict(connection.execute("SELECT length_ns, from_ns FROM kept WHERE network = ?", [network]).fetchall())
    return Kept(tuple(found.get(level.length_ns, EVER) for level in LEVELS))


def put_kept(connection: duckdb.DuckDBPyConnection, network: int, kept: Kept) -> None:
    connection.execute("DELETE FROM kept WHERE network = ?", [network])
    for level, from_ns in zip(LEVELS, kept.from_ns, strict=True):
        if from_ns != EVER:
            connection.execute("INSERT INTO kept VALUES (?, ?, ?)", [network, level.length_ns, from_ns])


# --- rows


def standing(network: int, kept: Kept, span: Span) -> str:
    """The SQL of the rows that stand for the time in which they begin: vm, start_ns and interval_ns."""
    parts = [f"SELECT vm, start_ns, interval_ns FROM intervals WHERE {beginning(network, span)}"]
    for level, part in kept.pieces(span):
        if level != RAW:
            parts.append(f"SELECT vm, start_ns, {level.length_ns} FROM {level.table} WHERE {beginning(network, part)}")
    return " UNION ALL ".join(parts)


def beginning(network: int, span: Span) -> str:
    """The condition for a network's rows that begin in a span."""
    return f"network = {network} AND start_ns >= {span[0]} AND start_ns < {span[1]}"


def clear(connection: duckdb.DuckDBPyConnection, network: int, ids: Ids, starts_ns: Ints, interval_ns: int) -> int:
    """Removes the rows that lie in the time of some intervals of some VMs, and corrects the runs.

    Returns how many of these (VM, interval) meet one.
    """
    span = int(starts_ns[0]), int(starts_ns[-1]) + interval_ns
    if not any(run.first_ns < span[1] and run.end_ns > span[0] for run in runs_near(connection, network, span)):
        return 0  # the usual case: time goes on, or a gap is filled, and nothing can lie there yet
    kept, reach = kept_of(connection, network), extent(connection, network)
    assert reach is not None
    window = span[0] - reach[2], span[1]
    spans = {"begin_ns": np.ascontiguousarray(starts_ns), "end_ns": starts_ns + interval_ns}
    with registered(connection, "spans", spans), registered(connection, "chosen", {"vm": ids}):
        lying = "SEMI JOIN chosen USING (vm) JOIN spans ON old.start_ns < spans.end_ns AND old.start_ns + {} > spans.begin_ns"
        ((replaced,),) = connection.execute(
            f"SELECT count(*) FROM (SELECT DISTINCT old.vm, spans.begin_ns FROM ({standing(network, kept, window)}) AS old "
            f"{lying.format('old.interval_ns')})"
        ).fetchall()
        if not replaced:
            return 0
        for level in LEVELS:
            length = "interval_ns" if level == RAW else str(level.length_ns)
            within = beginning(network, window if level == RAW else outward(span, level.length_ns))
            connection.execute(
                f"DELETE FROM {level.table} WHERE rowid IN (SELECT old.row FROM (SELECT rowid AS row, vm, start_ns, "
                f"{length} AS length_ns FROM {level.table} WHERE {within}) AS old {lying.format('old.length_ns')})"
            )
    recount(connection, network, window)
    return int(replaced)


def recount(connection: duckdb.DuckDBPyConnection, network: int, window: Span) -> None:
    """Corrects the runs by the rows that begin in a window."""
    found = connection.execute(
        f"SELECT DISTINCT interval_ns, start_ns FROM ({standing(network, kept_of(connection, network), window)}) "
        "ORDER BY interval_ns, start_ns % interval_ns, start_ns"
    ).fetchnumpy()
    kinds = np.stack([found["interval_ns"], found["start_ns"] % found["interval_ns"]]) if len(found["start_ns"]) else None
    runs: list[Run] = []
    if kinds is not None:
        edges = np.flatnonzero((np.diff(kinds) != 0).any(axis=0)) + 1
        for starts in np.split(np.arange(kinds.shape[1]), edges):
            runs += runs_of(int(kinds[0, starts[0]]), found["start_ns"][starts])
    near = runs_near(connection, network, window)
    put_runs(connection, network, near, joined([*without(near, window), *runs]))


def insert(connection: duckdb.DuckDBPyConnection, network: int, ids: Ids, batch: MetricBatch, interval_ns: int) -> None:
    """Adds a batch's rows, in time that is clear, and its runs; notes what is to be rolled up."""
    for rows in in_rows(batch, ids):
        names = ", ".join(rows)  # NaN comes in as NULL: so DuckDB reads floats of NumPy
        with registered(connection, "incoming", rows):
            connection.execute(
                f"INSERT INTO intervals (network, interval_ns, source, {names}) SELECT ?, ?, ?, {names} FROM incoming",
                [network, interval_ns, storable(batch.source)],
            )
    span = int(batch.start_ns[0]), int(batch.start_ns[-1]) + interval_ns
    near = runs_near(connection, network, span)
    put_runs(connection, network, near, joined([*near, *runs_of(interval_ns, batch.start_ns)]))
    mark_due(connection, network, span)


def amend(connection: duckdb.DuckDBPyConnection, network: int, ids: Ids, batch: MetricBatch, interval_ns: int) -> int:
    """Puts the batch's columns in the place of those of raw rows of just these intervals. Returns how many there were."""
    told = ", ".join(f"{name} = new.{name}" for name in batch.columns)
    amended = 0
    for rows in in_rows(batch, ids):
        with registered(connection, "amended", rows):
            ((count,),) = connection.execute(
                f"UPDATE intervals SET {told} FROM amended AS new WHERE intervals.network = ? AND intervals.vm = new.vm "
                "AND intervals.start_ns = new.start_ns AND intervals.interval_ns = ?",
                [network, interval_ns],
            ).fetchall()
        amended += count
    if amended:
        mark_due(connection, network, (int(batch.start_ns[0]), int(batch.start_ns[-1]) + interval_ns))
    return amended


def in_rows(batch: MetricBatch, ids: Ids) -> Iterator[dict[str, NDArray[Any]]]:
    """The batch as columns of one row a (interval, VM), in pieces that bound the memory of a large batch."""
    at_once = max(1, _INSERT_ROWS // len(ids))
    known = np.flatnonzero(ids >= 0)
    chosen = slice(None) if len(known) == len(ids) else known
    for first in range(0, len(batch), at_once):
        part = slice(first, first + at_once)
        starts = batch.start_ns[part]
        columns = {
            name: np.ascontiguousarray(values[part][:, chosen]).reshape(-1)
            for name, values in {**batch.columns, "one_sided": batch.one_sided}.items()
        }
        yield columns | {"vm": np.tile(ids[chosen], len(starts)), "start_ns": np.repeat(starts, len(known))}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is read: columns of a network's VMs, on a grid. ids: the VMs', -1 of those of which nothing is stored."""

    network: int
    ids: Ids
    metrics: tuple[Metric, ...]
    grid: Grid


def cells(
    connection: duckdb.DuckDBPyConnection, asked: Asked, parts: Sequence[Source], runs: Sequence[Run]
) -> Mapping[str, NDArray[Any]]:
    """Each filled cell of the grid: `at_vm`, its place in `ids`, `at_step`, `at_one_sided`, and its value of every metric."""
    ids, grid, known = asked.ids, asked.grid, asked.ids[asked.ids >= 0]
    of_vms = "" if len(known) > _LISTED_VMS else f" AND vm IN ({', '.join(map(str, known))})"
    rows = [sql for part in parts for sql in _rows_of(asked, part, runs, of_vms)] if len(known) else []
    if not rows:
        return {}
    chosen = {m.name: value(m) if grid.rolls_up else m.name for m in asked.metrics}
    listed = "".join(f", CAST({sql} AS DOUBLE) AS {name}" for name, sql in chosen.items())
    one_sided = "sum(one_sided) / sum(rows_in)" if grid.rolls_up else "one_sided / rows_in"
    found = connection.execute(
        f"SELECT vm AS at_vm, (start_ns - {grid.start_ns}) // {grid.step_ns} AS at_step, "
        f"CAST({one_sided} AS DOUBLE) AS at_one_sided{listed} FROM ({' UNION ALL '.join(rows)})"
        + (" GROUP BY at_vm, at_step" if grid.rolls_up else "")
    ).fetchnumpy()
    return _placed(ids, found)


def _placed(ids: Ids, found: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Cells with their VM's place in `ids` for its id, without those of other VMs. To have SQL join the two costs more."""
    if not len(found["at_vm"]):
        return found
    order = np.argsort(ids)
    at = np.minimum(np.searchsorted(ids, found["at_vm"], sorter=order), len(ids) - 1)
    found["at_vm"], theirs = order[at], ids[order[at]] == found["at_vm"]
    return found if theirs.all() else {name: each[theirs] for name, each in found.items()}


def _rows_of(asked: Asked, part: Source, runs: Sequence[Run], of_vms: str) -> Iterator[str]:
    """The SQL of the rows of a part, ready to be rolled up: the level's cells, and the raw rows that it doesn't take up."""
    level, grid = part.level, asked.grid
    where = f"WHERE {beginning(asked.network, part.span)}{of_vms}"
    if level != RAW and grid.step_ns % level.length_ns == 0:
        yield f"SELECT {ready(level, asked.metrics)} FROM {level.table} {where}"
    there = [run for run in runs if run.interval_ns in grid.intervals_ns and run.within(part.span) is not None]
    if any(not level.takes(run.interval_ns, run.phase_ns) for run in there):
        lengths = ", ".join(map(str, grid.intervals_ns))
        yield (
            f"SELECT {ready(RAW, asked.metrics)} FROM intervals {where} AND interval_ns IN ({lengths}) "
            f"AND NOT {level.takes_sql}"
        )


# --- the database's ways


def strings(names: Sequence[str]) -> NDArray[np.object_]:
    return np.array(names, dtype=object)


@contextlib.contextmanager
def registered(connection: duckdb.DuckDBPyConnection, name: str, columns: Mapping[str, NDArray[Any]]) -> Iterator[None]:
    """Lets SQL read NumPy columns as a table, without copying them."""
    connection.register(name, dict(columns))
    try:
        yield
    finally:
        with contextlib.suppress(duckdb.Error):
            connection.unregister(name)
