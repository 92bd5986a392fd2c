"""The embedded metric store: one DuckDB file, owned by one process, every write one transaction.

Keeps and reads rows; never decides what a metric means and never reads a clock.
"""

# The names and numbers put into SQL below come from the catalogue and the grid; what users give is bound. So:
# ruff: noqa: S608

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import duckdb
import numpy as np
from numpy.typing import NDArray

from adumbra.schema.errors import StoreBusyError, StoreError
from adumbra.schema.metrics import METRICS, Metric, Rollup
from adumbra.schema.records import NANOSECONDS, Floats, MetricBatch, Origin, Series, SeriesQuery
from adumbra.store.batches import check_batch
from adumbra.store.grid import Grid, Stored, check_size, known_metrics, known_vms, plan_grid
from adumbra.store.names import natural_order, storable

SCHEMA_VERSION = 1
"""Raised when a stored column changes its meaning. A column more in the catalogue doesn't raise it: it is added on opening."""

_INSERT_ROWS = 500_000
_KEY_COLUMNS = {
    "network": "VARCHAR NOT NULL", "origin": "VARCHAR NOT NULL", "vm": "VARCHAR NOT NULL", "start_ns": "BIGINT NOT NULL",
    "interval_s": "DOUBLE NOT NULL", "one_sided": "BOOLEAN NOT NULL", "source": "VARCHAR NOT NULL",
}  # fmt: skip
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "enable_external_access": "false",  # the store reads and writes its own file, and no SQL can reach another
    "memory_limit": "1GB",
    "checkpoint_threshold": "64MB",  # of write-ahead log, before it is worked into the file: seldom, and quick to replay
}
_HOLDER = re.compile(r"held in (?P<program>.*?) \(PID (?P<pid>\d+)\)")
_INTERVAL_NS = f"CAST(round(interval_s * {NANOSECONDS}) AS BIGINT)"


class DuckDBStore:
    """A MetricStore in one DuckDB file. Threads may share an open store: they take turns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._turn = threading.RLock()

    def __enter__(self) -> Self:
        """Opens the file; makes it if it isn't there, and adds the columns that it lacks.

        Raises StoreError where another process has it open, where it is no metric store, or is one of a newer version.
        """
        with _explained(f"open the metric store {self.path}"):
            if not self.path.exists():
                _create(self.path)
            connection = duckdb.connect(str(self.path), config=_SETTINGS)
            try:
                _bring_up_to_date(connection, self.path)
            except BaseException:
                connection.close()
                raise
        self._connection = connection
        return self

    def __exit__(self, *exc: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with _explained(f"close the metric store {self.path}"):
                connection.close()

    def write(self, batch: MetricBatch) -> int:
        """See MetricStore.write. All in one transaction: after a failure or a kill the store is as it was before."""
        interval_ns = check_batch(batch)
        if len(batch) == 0 or not batch.vms:
            return 0
        with self._transaction(f"store {len(batch)} intervals of {batch.network} in {self.path}") as connection:
            replaced = _clear(connection, batch, interval_ns)
            for rows in _rows(batch):
                _insert(connection, batch, rows)
            connection.execute(
                "INSERT INTO reach VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "end_ns = greatest(end_ns, excluded.end_ns), longest_ns = greatest(longest_ns, excluded.longest_ns)",
                [batch.network, batch.origin.value, int(batch.start_ns[-1]) + interval_ns, interval_ns],
            )
        return replaced

    def amend(self, batch: MetricBatch) -> int:
        """See MetricStore.amend. All in one transaction."""
        interval_ns = check_batch(batch)
        if len(batch) == 0 or not batch.vms or not batch.columns:
            return 0
        kinds, amended = _declared(), 0
        told = ", ".join(f"{name} = CAST(nullif(new.{name}, 'NaN'::DOUBLE) AS {kinds[name]})" for name in batch.columns)
        with self._transaction(f"amend {len(batch)} intervals of {batch.network} in {self.path}") as connection:
            for rows in _rows(batch):
                with _registered(connection, "amended", rows):
                    ((count,),) = connection.execute(
                        f"UPDATE intervals SET {told} FROM amended AS new WHERE intervals.network = ? AND intervals.origin = ? "
                        f"AND intervals.vm = new.vm AND intervals.start_ns = new.start_ns AND {_INTERVAL_NS} = ?",
                        [batch.network, batch.origin.value, interval_ns],
                    ).fetchall()
                amended += count
        return amended

    def read(self, query: SeriesQuery) -> Series:
        """See MetricStore.read, and plan_grid for the rule where stored intervals differ in length.

        A cell that only part of the stored intervals fall into is computed from those: a sum over half a minute is the
        sum of that half. `one_sided` of a cell is the share of its intervals in which only one side was seen. The grid
        reaches from the network's first to its last interval in the queried range, whichever VMs are asked for.
        """
        metrics = known_metrics(query.columns)
        with self._transaction(f"read metrics of {query.network} from {self.path}") as connection:
            known = _vms(connection, query.network)
            vms = known_vms(query.network, query.vms, known) if known else query.vms
            stored = _stored(connection, query)
            if not stored:
                return _fill(query, vms, Grid(query.start_ns or 0, round((query.step_s or 1.0) * NANOSECONDS), 0, ()), {})
            grid = plan_grid(query, stored)
            check_size(query, grid, len(vms))
            return _fill(query, vms, grid, _cells(connection, query, metrics, vms, grid))

    def vms(self, network: str) -> tuple[str, ...]:
        """See MetricStore.vms."""
        with self._transaction(f"list the VMs of {network} in {self.path}") as connection:
            return _vms(connection, network)

    def span(self, network: str, origin: Origin = Origin.SHADOW) -> tuple[int, int] | None:
        """See MetricStore.span."""
        with self._transaction(f"read the span of {network} from {self.path}") as connection:
            ((first_ns, end_ns),) = connection.execute(
                f"SELECT min(start_ns), max(start_ns + {_INTERVAL_NS}) FROM intervals WHERE network = ? AND origin = ?",
                [network, origin.value],
            ).fetchall()
        return None if first_ns is None else (first_ns, end_ns)

    def delete_network(self, network: str) -> int:
        """See MetricStore.delete_network."""
        with self._transaction(f"delete the metrics of {network} from {self.path}") as connection:
            ((deleted,),) = connection.execute("DELETE FROM intervals WHERE network = ?", [network]).fetchall()
            connection.execute("DELETE FROM reach WHERE network = ?", [network])
        return int(deleted)

    @contextlib.contextmanager
    def _transaction(self, doing: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """The connection, in a transaction that is committed at the end, and rolled back if anything is raised."""
        with self._turn, _explained(doing):
            connection = self._connection
            if connection is None:
                raise RuntimeError("the metric store isn't open: use it in a `with` block")
            connection.begin()
            try:
                yield connection
                connection.commit()
            except BaseException:
                with contextlib.suppress(duckdb.Error):  # a failed commit has been rolled back already
                    connection.rollback()
                raise


def _create(path: Path) -> None:
    """Makes an empty store. It appears whole under its name, or not at all, so a kill can't leave half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.new-{os.getpid()}-{threading.get_ident()}")
    try:
        with duckdb.connect(str(unfinished), config=_SETTINGS) as connection:
            columns = ", ".join(f"{name} {kind}" for name, kind in _declared().items())
            connection.execute(f"CREATE TABLE intervals ({columns})")
            connection.execute(
                "CREATE TABLE reach (network VARCHAR, origin VARCHAR, end_ns BIGINT NOT NULL, longest_ns BIGINT NOT NULL, "
                "PRIMARY KEY (network, origin))"
            )
            connection.execute(f"CREATE TABLE adumbra_store AS SELECT {SCHEMA_VERSION} AS schema_version")
            connection.execute("CHECKPOINT")  # closing does it too, but keeps silent when it fails
        with contextlib.suppress(FileExistsError):  # another process was first: its store is the store
            path.hardlink_to(unfinished)
    finally:
        for leftover in (unfinished, unfinished.with_name(f"{unfinished.name}.wal")):
            leftover.unlink(missing_ok=True)


def _declared() -> dict[str, str]:
    """The columns of `intervals` and their types: the keys, and the catalogue's metrics."""
    return _KEY_COLUMNS | {metric.name: "BIGINT" if metric.whole else "DOUBLE" for metric in METRICS}


def _bring_up_to_date(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    columns = {
        row[0]
        for row in connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name IN ('intervals', 'adumbra_store')"
        ).fetchall()
    }
    if "schema_version" not in columns:
        raise StoreError(f"{path} is a DuckDB file, but not a metric store", "name another file, or move this one away")
    ((version,),) = connection.execute("SELECT max(schema_version) FROM adumbra_store").fetchall()
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the metric store {path} was made by a newer Adumbra (its format is {version}, this one knows {SCHEMA_VERSION})",
            "upgrade Adumbra, or name another file",
        )
    for name, kind in _declared().items():
        if name not in columns:
            connection.execute(f"ALTER TABLE intervals ADD COLUMN {name} {kind}")


def _clear(connection: duckdb.DuckDBPyConnection, batch: MetricBatch, interval_ns: int) -> int:
    """Removes the stored rows that lie in the time of the batch's. Returns how many of the batch's rows meet one."""
    key = [batch.network, batch.origin.value]
    reach = connection.execute("SELECT end_ns, longest_ns FROM reach WHERE network = ? AND origin = ?", key).fetchall()
    first_ns, end_ns = int(batch.start_ns[0]), int(batch.start_ns[-1]) + interval_ns
    if not reach or first_ns >= reach[0][0]:  # the usual case: time goes on, and nothing can lie there yet
        return 0
    spans = {"start_ns": batch.start_ns, "end_ns": batch.start_ns + interval_ns}
    with _registered(connection, "spans", spans), _registered(connection, "names", {"vm": _strings(batch.vms)}):
        meeting = (
            f"FROM intervals AS old SEMI JOIN names ON old.vm = names.vm "
            f"JOIN spans ON old.start_ns < spans.end_ns AND old.start_ns + {_INTERVAL_NS} > spans.start_ns "
            f"WHERE network = ? AND origin = ? AND old.start_ns > ? AND old.start_ns < ?"
        )
        bounds = [*key, first_ns - reach[0][1], end_ns]
        ((replaced,),) = connection.execute(
            f"SELECT count(*) FROM (SELECT DISTINCT old.vm, spans.start_ns {meeting})", bounds
        ).fetchall()
        if replaced:
            connection.execute(f"DELETE FROM intervals WHERE rowid IN (SELECT old.rowid {meeting})", bounds)
    return int(replaced)


def _rows(batch: MetricBatch) -> Iterator[dict[str, NDArray[Any]]]:
    """The batch as columns of one row a (interval, VM), in pieces that bound the memory of a large batch."""
    vms = _strings(batch.vms)
    at_once = max(1, _INSERT_ROWS // len(vms))
    for first in range(0, len(batch), at_once):
        part = slice(first, first + at_once)
        starts = batch.start_ns[part]
        columns = {name: np.ascontiguousarray(values[part]).reshape(-1) for name, values in batch.columns.items()}
        yield columns | {
            "vm": np.tile(vms, len(starts)),
            "start_ns": np.repeat(starts, len(vms)),
            "one_sided": np.ascontiguousarray(batch.one_sided[part]).reshape(-1),
        }


def _insert(connection: duckdb.DuckDBPyConnection, batch: MetricBatch, rows: Mapping[str, NDArray[Any]]) -> None:
    kinds = _declared()
    values = [
        f"CAST(nullif({name}, 'NaN'::DOUBLE) AS {kinds[name]})" if rows[name].dtype.kind == "f" else name for name in rows
    ]
    with _registered(connection, "incoming", rows):
        connection.execute(
            f"INSERT INTO intervals (network, origin, interval_s, source, {', '.join(rows)}) "
            f"SELECT ?, ?, ?, ?, {', '.join(values)} FROM incoming",
            [batch.network, batch.origin.value, float(batch.interval_s), storable(batch.source)],
        )


def _vms(connection: duckdb.DuckDBPyConnection, network: str) -> tuple[str, ...]:
    rows = connection.execute("SELECT DISTINCT vm FROM intervals WHERE network = ?", [network]).fetchall()
    return natural_order(row[0] for row in rows)


def _where(query: SeriesQuery) -> tuple[str, list[object]]:
    """The condition for the rows in the queried range, and its values."""
    text, bounds = "network = ? AND origin = ?", list[object]([query.network, query.origin.value])
    if query.start_ns is not None:
        text += " AND start_ns >= ?"
        bounds.append(query.start_ns)
    if query.end_ns is not None:
        text += " AND start_ns < ?"
        bounds.append(query.end_ns)
    return text, bounds


def _stored(connection: duckdb.DuckDBPyConnection, query: SeriesQuery) -> list[Stored]:
    where, values = _where(query)
    rows = connection.execute(
        f"SELECT {_INTERVAL_NS} AS length, min(start_ns), max(start_ns) FROM intervals WHERE {where} GROUP BY length", values
    ).fetchall()
    return [Stored(*row) for row in rows]


def _rolled_up(metric: Metric, *, lengths_differ: bool) -> str:
    """The SQL that makes one value of a column's values in a cell, as the catalogue says; NULLs count for nothing."""
    name = metric.name
    match metric.rollup:
        case Rollup.SUM:
            return f"sum({name})"
        case Rollup.MAX:
            return f"max({name})"
        case Rollup.LAST:
            return f"arg_max({name}, start_ns) FILTER (WHERE {name} IS NOT NULL)"
        case Rollup.MEAN if lengths_differ:
            return f"sum({name} * interval_s) / sum(interval_s) FILTER (WHERE {name} IS NOT NULL)"
        case Rollup.MEAN:
            return f"avg({name})"


def _cells(
    connection: duckdb.DuckDBPyConnection, query: SeriesQuery, metrics: tuple[Metric, ...], vms: tuple[str, ...], grid: Grid
) -> Mapping[str, NDArray[Any]]:
    """Each filled cell of the grid: `at_vm`, `at_step`, `at_one_sided`, and its value of every metric."""
    where, values = _where(query)
    differ = len(grid.intervals_ns) > 1
    chosen = {m.name: _rolled_up(m, lengths_differ=differ) if grid.rolls_up else m.name for m in metrics}
    one_sided = "avg(CAST(one_sided AS INTEGER))" if grid.rolls_up else "one_sided"
    listed = "".join(f", CAST({sql} AS DOUBLE) AS {name}" for name, sql in chosen.items())
    lengths = ", ".join(map(str, grid.intervals_ns))
    with _registered(connection, "asked", {"vm": _strings(vms), "place": np.arange(len(vms), dtype=np.int64)}):
        return connection.execute(
            f"SELECT place AS at_vm, (start_ns - {grid.start_ns}) // {grid.step_ns} AS at_step, "
            f"CAST({one_sided} AS DOUBLE) AS at_one_sided{listed} FROM intervals JOIN asked USING (vm) "
            f"WHERE {where} AND {_INTERVAL_NS} IN ({lengths})" + (" GROUP BY at_vm, at_step" if grid.rolls_up else ""),
            values,
        ).fetchnumpy()


def _fill(query: SeriesQuery, vms: tuple[str, ...], grid: Grid, cells: Mapping[str, NDArray[Any]]) -> Series:
    def spread(name: str) -> Floats:
        values = np.full((len(vms), grid.steps), np.nan)
        if cells:
            values[cells["at_vm"], cells["at_step"]] = np.ma.filled(cells[name], np.nan)
        return values

    values = {name: spread(name) for name in dict.fromkeys(query.columns)}
    return Series(query.network, vms, grid.start_ns, grid.step_ns / NANOSECONDS, values, spread("at_one_sided"))


def _strings(names: tuple[str, ...]) -> NDArray[np.object_]:
    return np.array(names, dtype=object)


@contextlib.contextmanager
def _registered(connection: duckdb.DuckDBPyConnection, name: str, columns: Mapping[str, NDArray[Any]]) -> Iterator[None]:
    """Lets SQL read NumPy columns as a table, without copying them."""
    connection.register(name, dict(columns))
    try:
        yield
    finally:
        with contextlib.suppress(duckdb.Error):
            connection.unregister(name)


@contextlib.contextmanager
def _explained(doing: str) -> Iterator[None]:
    """Turns the database's errors into one line that says what was being done and what to do next."""
    try:
        yield
    except duckdb.Error as error:
        what, mend = _explain(error)
        kind = StoreBusyError if "has it open" in what else StoreError
        raise kind(f"could not {doing}: {what}", mend) from error
    except OSError as error:
        raise StoreError(f"could not {doing}: {error.strerror or error}", "check the folder and its permissions") from error


def _explain(error: duckdb.Error) -> tuple[str, str]:
    text = str(error)
    if holder := _HOLDER.search(text):
        program = Path(holder["program"]).name
        return (
            f"process {holder['pid']} ({program}) has it open",
            f"one process owns the file, so wait for it to end (`ps -p {holder['pid']}` shows it), or use its API if it serves",
        )
    if "Could not set lock" in text:
        return "another process has it open", "one process owns the file, so wait for it to end, or use its API if it serves"
    if "No space left" in text or "Disk quota" in text or "File too large" in text:
        return "the disk is full", "what was stored before is as it was; free some space and run the same again"
    if "Permission denied" in text or "Read-only file system" in text:
        return "the file or its folder can't be written to", "give this user the right to write both"
    if "replaying WAL" in text:
        return (
            "the .wal file beside it is damaged, or of another store",
            "put back the file that it belongs to, or move it away",
        )
    if "not a valid DuckDB" in text or "external extensions is disabled" in text:
        return "it is no DuckDB file", "name another file, or move this one away"
    if "has been invalidated" in text:
        return "it failed before and is closed until it is opened anew", "run the command again; all acknowledged data are safe"
    first_line = text.strip().splitlines()[0][:300] if text.strip() else type(error).__name__
    return first_line, "check the disk and the file's permissions, and run the same again"
