"""What keeps the embedded store small and quick: rolls up what came, forgets what is old, copies what is kept in good order.

Each function is one step within the caller's transaction, of bounded memory, and harmless to do again. Reads no clock.
"""

# The names and numbers put into SQL below come from the catalogue and the books. So:
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import duckdb

from adumbra.schema.metrics import METRICS
from adumbra.store.duckdb_file import BOOKS
from adumbra.store.duckdb_rows import (
    beginning,
    due_spans,
    extent,
    kept_of,
    put_due,
    put_kept,
    put_runs,
    runs_near,
    standing,
)
from adumbra.store.levels import COARSEST_NS, EVER, LEVELS, NEVER, RAW, ROLLED, Kept, Level, Retention
from adumbra.store.ranges import Span, common, inward, minus, outward, union
from adumbra.store.rollups import cell, columns_of, ready

_ROWS_A_STEP = 500_000
_ROWS_A_COPY = 2_000_000


@dataclass(frozen=True, slots=True)
class Change:
    """Rows that changed while the file is rewritten: a network's that begin in the span; `rolled`: cells too, not raw only."""

    network: int
    span: Span
    rolled: bool


# --- rolling up


def roll_up_some(connection: duckdb.DuckDBPyConnection, network: int, before_ns: int = NEVER) -> int | None:
    """Rolls up a network's oldest due time of the finest level that has any: whole cells that the network's time has passed.

    Returns how many cells it made, None where nothing is due before that time.
    """
    reach, due = extent(connection, network), due_spans(connection, network)
    if reach is None:
        return None
    vms = max(1, connection.execute("SELECT count(*) FROM vms WHERE network = ?", [network]).fetchall()[0][0])
    waiting: list[Span] = []
    for finer, level in zip(LEVELS, ROLLED, strict=False):
        length = level.length_ns
        passed = inward((EVER, min(reach[1], before_ns)), length)
        open_ = [outward(span, length) for span in waiting]  # the finer level isn't up to date there
        ready_ = minus([common(span, passed) for span in due[length]], open_)
        if ready_:
            begin, end = ready_[0]
            shortest = finer.length_ns or min(run.interval_ns for run in runs_near(connection, network))
            most = max(1, _ROWS_A_STEP * shortest // vms // length) * length
            span = begin, min(end, begin + most)
            made = _roll_up(connection, network, finer, level, span)
            put_due(connection, network, length, due[length], minus(due[length], [span]))
            return made
        waiting += due[length]
    return None


def _roll_up(connection: duckdb.DuckDBPyConnection, network: int, finer: Level, level: Level, span: Span) -> int:
    """Puts the cells of a span in the place of those that were there, where there are rows to make them of."""
    where = beginning(network, span)
    parts = [f"SELECT {ready(RAW, METRICS)} FROM intervals WHERE {where} AND {level.takes_sql} AND NOT {finer.takes_sql}"]
    if finer != RAW:
        if not any(
            level.takes(run.interval_ns, run.phase_ns) and not finer.takes(run.interval_ns, run.phase_ns)
            for run in runs_near(connection, network, span)
        ):
            parts.clear()
        parts.append(f"SELECT {ready(finer, METRICS)} FROM {finer.table} WHERE {where}")
    rows = " UNION ALL ".join(parts)
    at = f"start_ns // {level.length_ns} * {level.length_ns}"
    if connection.execute(f"SELECT 1 FROM {level.table} WHERE {where} LIMIT 1").fetchall():
        connection.execute(
            f"DELETE FROM {level.table} AS old USING (SELECT DISTINCT vm, {at} AS cell_ns FROM ({rows})) AS new "
            f"WHERE {where} AND old.vm = new.vm AND old.start_ns = new.cell_ns"
        )
    ((made,),) = connection.execute(
        f"INSERT INTO {level.table} SELECT {network}, vm, {at} AS cell_ns, {cell()} FROM ({rows}) "
        "GROUP BY vm, cell_ns ORDER BY vm, cell_ns"
    ).fetchall()
    return int(made)


# --- forgetting


def forget(connection: duckdb.DuckDBPyConnection, network: int, retention: Retention, now_ns: int) -> int:
    """Takes away what is older than its level is kept. Returns how many rows went."""
    reach, due, old = extent(connection, network), due_spans(connection, network), kept_of(connection, network)
    if reach is None:
        return 0
    unrolled_ns = min((span[0] for spans in due.values() for span in spans), default=NEVER)
    kept = old.forgotten(retention, min(now_ns, reach[1]), unrolled_ns)
    runs = runs_near(connection, network)
    if kept.standing(runs) == runs:
        return 0
    put_kept(connection, network, kept)
    return let_go(connection, network, kept)


def let_go(connection: duckdb.DuckDBPyConnection, network: int, kept: Kept) -> int:
    """Takes away the rows that are no longer kept, and has the runs say what stands. Returns how many rows went."""
    gone = 0
    for level, coarser in zip(LEVELS, [*ROLLED, None], strict=True):
        older = beginning(network, (EVER, kept.of(level)))
        # A raw row goes with the level before the first that takes it up; what none does, with the last.
        of_raw = f" AND {coarser.takes_sql} AND NOT {level.takes_sql}" if coarser is not None else ""
        deletions = [f"DELETE FROM intervals WHERE {older}{of_raw}"]
        if level != RAW:
            deletions.append(f"DELETE FROM {level.table} WHERE {older}")
        for deletion in deletions:
            gone += connection.execute(deletion).fetchall()[0][0]
    runs = runs_near(connection, network)
    put_runs(connection, network, runs, kept.standing(runs))
    due = due_spans(connection, network)
    for level in ROLLED:
        spans = due[level.length_ns]
        put_due(connection, network, level.length_ns, spans, minus(spans, [(EVER, kept.of(level))]))
    if gone and kept.from_ns[-1] != EVER:
        _forget_vms(connection, network)
    return gone


def _forget_vms(connection: duckdb.DuckDBPyConnection, network: int) -> None:
    """Takes away the VMs that have no row left."""
    rows = standing(network, kept_of(connection, network), (EVER, NEVER))
    ((gone,),) = connection.execute(
        f"DELETE FROM vms WHERE network = {network} AND id NOT IN (SELECT vm FROM ({rows}))"
    ).fetchall()
    if gone:
        connection.execute("UPDATE adumbra_store SET epoch = epoch + 1")


def delete(connection: duckdb.DuckDBPyConnection, network: int) -> int:
    """Takes away all of a network. Returns how many rows stood."""
    rows = standing(network, kept_of(connection, network), (EVER, NEVER))
    ((stood,),) = connection.execute(f"SELECT count(*) FROM ({rows})").fetchall()
    for table in (*(level.table for level in LEVELS), "vms", "runs", "due", "kept"):
        connection.execute(f"DELETE FROM {table} WHERE network = {network}")
    connection.execute(f"DELETE FROM networks WHERE id = {network}")
    connection.execute("UPDATE adumbra_store SET epoch = epoch + 1")
    return int(stood)


# --- rewriting


def copies(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Statements that copy all rows into the database `fresh`, in the order of network, VM and time: a part each.

    A part is a stretch of time of a network with no more rows than can be sorted in bounded space.
    """
    for level in LEVELS:
        counted = connection.execute(
            f"SELECT network, count(*), min(start_ns), max(start_ns) + 1 FROM {level.table} GROUP BY network ORDER BY network"
        ).fetchall()
        for network, rows, first_ns, end_ns in counted:
            length = -(-(end_ns - first_ns) * _ROWS_A_COPY // rows)
            for begin in range(first_ns, end_ns, max(1, length)):
                yield _copy(level, network, (begin, min(end_ns, begin + length)))


def merged(changes: Iterable[Change]) -> Iterator[Change]:
    """The same changes in few, of each network in order."""
    spans: dict[tuple[int, bool], list[Span]] = {}
    for change in changes:
        spans.setdefault((change.network, change.rolled), []).append(change.span)
    for (network, rolled), each in spans.items():
        yield from (Change(network, span, rolled) for span in union(each))


def recopies(change: Change) -> Iterator[str]:
    """Statements that copy anew what changed."""
    for level in LEVELS if change.rolled else (RAW,):
        span = change.span if level == RAW else outward(change.span, COARSEST_NS)
        yield f"DELETE FROM fresh.{level.table} WHERE {beginning(change.network, span)}"
        yield _copy(level, change.network, span)


def book_copies(sorted_bytes: int) -> Iterator[str]:
    """Statements that copy the books."""
    for table in BOOKS:
        yield f"DELETE FROM fresh.{table}"
        yield f"INSERT INTO fresh.{table} SELECT * FROM {table}"
    yield f"UPDATE fresh.adumbra_store SET sorted_bytes = {sorted_bytes}"


def _copy(level: Level, network: int, span: Span) -> str:
    names = ", ".join(columns_of(level))
    return (
        f"INSERT INTO fresh.{level.table} ({names}) SELECT {names} FROM {level.table} "
        f"WHERE {beginning(network, span)} ORDER BY vm, start_ns"
    )
