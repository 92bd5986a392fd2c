"""The embedded metric store: one DuckDB file, owned by one process, every write one transaction.

Keeps and reads rows, raw and rolled up; never decides what a metric means and never reads a clock.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import duckdb
import numpy as np
from numpy.typing import NDArray

from adumbra.schema.records import NANOSECONDS, Floats, MetricBatch, Origin, Series, SeriesQuery
from adumbra.store import duckdb_file as files
from adumbra.store import duckdb_rows as rows
from adumbra.store import duckdb_upkeep as upkeep
from adumbra.store.batches import check_batch
from adumbra.store.duckdb_file import explained
from adumbra.store.gate import Gate
from adumbra.store.grid import Grid, Stored, check_size, known_metrics, known_vms, plan_grid
from adumbra.store.levels import EVER, NEVER, RAW, Retention, sources
from adumbra.store.names import natural_order
from adumbra.store.protocol import Abilities, Upkeep
from adumbra.store.ranges import Run, common

_LOOKED_UP, _FEW_VMS = 64, 100
_CATCHING_UP = 8
_SWAP_WAITS_S = 30.0  # for readers to end
_MOST_SORTED_BYTES = 3_000_000_000  # of one part of a rewriting, which goes to disk where it doesn't fit memory


@dataclass(frozen=True, slots=True)
class Rewriting:
    """When the file is worth rewriting: where so large a share of it is free, or it grew by so much since, and is so large."""

    free_share: float = 0.3
    growth: float = 2.0
    least_bytes: int = 256_000_000


class DuckDBStore:
    """A MetricStore in one DuckDB file. Threads may share an open store: writers take turns, readers wait for nobody.

    retention: how long each level is kept. Reads are of one moment: a write is seen whole or not at all.
    """

    abilities = Abilities()

    def __init__(self, path: Path, retention: Retention | None = None, rewriting: Rewriting | None = None) -> None:
        self.path = path
        self.retention = retention or Retention()
        self.rewriting = rewriting or Rewriting()
        self._file = path
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._turn = threading.RLock()  # of writers
        self._maintaining = threading.Lock()
        self._gate = Gate()  # for readers; closed while the file is swapped
        self._ids: dict[tuple[str, str, tuple[str, ...]], tuple[int, int, rows.Ids]] = {}
        self._changes: list[upkeep.Change] | None = None  # noted while the file is rewritten
        self._closing = threading.Event()  # a rewriting gives up

    def __enter__(self) -> Self:
        """Opens the file; makes it if it isn't there, adds the columns that it lacks, brings an older format to this one.

        Raises StoreError where another process has it open, where it is no metric store, or is one of a newer version.
        """
        with explained(f"open the metric store {self.path}"):
            self._file = self.path.resolve()
            self._closing.clear()
            self._connection = files.open_file(self._file)
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        with self._maintaining, self._turn, self._gate.closed():
            connection, self._connection = self._connection, None
            if connection is not None:
                with explained(f"close the metric store {self.path}"):
                    files.close_file(connection, self._file)

    def write(self, batch: MetricBatch) -> int:
        """See MetricStore.write. All in one transaction: after a failure or a kill the store is as it was before.

        What is written of a time of which only roll-ups are kept is rolled up at once, and takes the place of whole cells.
        """
        interval_ns = check_batch(batch)
        if len(batch) == 0 or not batch.vms:
            return 0
        with self._writing(f"store {len(batch)} intervals of {batch.network} in {self.path}") as connection:
            network, ids = self._made_ids(connection, batch)
            replaced = rows.clear(connection, network, ids, batch.start_ns, interval_ns)
            rows.insert(connection, network, ids, batch, interval_ns)
            kept = rows.kept_of(connection, network)
            late = int(batch.start_ns[0]) < kept.of(RAW)
            if late:
                while upkeep.roll_up_some(connection, network, kept.of(RAW)) is not None:
                    pass
                upkeep.let_go(connection, network, kept)
            self._note(connection, network, batch, interval_ns, rolled=late or replaced > 0)
        return replaced

    def amend(self, batch: MetricBatch) -> int:
        """See MetricStore.amend. All in one transaction. Of a time of which only roll-ups are kept, nothing is amended."""
        interval_ns = check_batch(batch)
        if len(batch) == 0 or not batch.vms or not batch.columns:
            return 0
        with self._writing(f"amend {len(batch)} intervals of {batch.network} in {self.path}") as connection:
            network = rows.network_id(connection, batch.network, batch.origin.value)
            if network is None:
                return 0
            ids = _ids_of(batch.vms, rows.vm_ids(connection, network))
            amended = rows.amend(connection, network, ids, batch, interval_ns)
            self._note(connection, network, batch, interval_ns, rolled=False)
        return amended

    def read(self, query: SeriesQuery) -> Series:
        """See MetricStore.read, and plan_grid for the rule where stored intervals differ in length.

        A cell that only part of the stored intervals fall into is computed from those: a sum over half a minute is the
        sum of that half. `one_sided` of a cell is the share of its intervals in which only one side was seen. The grid
        reaches from the network's first to its last interval in the queried range, whichever VMs are asked for. Of a time of
        which only roll-ups are kept, their cells are the stored intervals.
        """
        metrics = known_metrics(query.columns)
        with self._reading(f"read metrics of {query.network} from {self.path}") as connection:
            nothing = Grid(query.start_ns or 0, round((query.step_s or 1.0) * NANOSECONDS), 0, ())
            network = rows.network_id(connection, query.network, query.origin.value)
            ids = {} if network is None else rows.vm_ids(connection, network, query.vms[:_FEW_VMS])
            vms = tuple(dict.fromkeys(query.vms))
            if not vms or not ids.keys() >= set(vms):
                known = _vms(connection, query.network)
                vms = known_vms(query.network, query.vms, known) if known else query.vms
                ids = {} if network is None else rows.vm_ids(connection, network)
            if network is None:
                return _fill(query, vms, nothing, {})
            span = (EVER if query.start_ns is None else query.start_ns, NEVER if query.end_ns is None else query.end_ns)
            runs = [r for r in (r.within(span) for r in rows.runs_near(connection, network, span)) if r is not None]
            if not runs:
                return _fill(query, vms, nothing, {})
            grid = plan_grid(query, _stored(runs))
            check_size(query, grid, len(vms))
            inside = common(span, (min(run.first_ns for run in runs), max(run.end_ns for run in runs)))
            kept, due = rows.kept_of(connection, network), rows.due_spans(connection, network)
            parts = sources(inside, grid.step_ns, grid.start_ns, kept, due)
            asked = rows.Asked(network, _ids_of(vms, ids), metrics, grid)
            return _fill(query, vms, grid, rows.cells(connection, asked, parts, runs))

    def vms(self, network: str) -> tuple[str, ...]:
        """See MetricStore.vms."""
        with self._reading(f"list the VMs of {network} in {self.path}") as connection:
            return _vms(connection, network)

    def span(self, network: str, origin: Origin = Origin.SHADOW) -> tuple[int, int] | None:
        """See MetricStore.span."""
        with self._reading(f"read the span of {network} from {self.path}") as connection:
            found = rows.network_id(connection, network, origin.value)
            reach = None if found is None else rows.extent(connection, found)
        return None if reach is None else (reach[0], reach[1])

    def delete_network(self, network: str) -> int:
        """See MetricStore.delete_network. Rows that only stand in roll-ups any more count as what they are there: cells."""
        deleted = 0
        with self._writing(f"delete the metrics of {network} from {self.path}") as connection:
            for found in [rows.network_id(connection, network, origin.value) for origin in Origin]:
                if found is not None:
                    deleted += upkeep.delete(connection, found)
                    if self._changes is not None:
                        self._changes.append(upkeep.Change(found, (EVER, NEVER), rolled=True))
        return deleted

    def maintain(self, now_ns: int) -> Upkeep:
        """Rolls up what came, forgets what is older than its level is kept, and rewrites the file where that is worth it.

        In steps: each is a transaction of its own for which writers wait, a second or so. Readers wait for none of them, but
        for the moment in which the rewritten file is swapped in. Cheap where nothing is due. Raises StoreError; what was done
        until then stays done.
        """
        rolled, forgotten = 0, 0
        with self._maintaining:
            with self._reading(f"look for what is due in {self.path}") as connection:
                networks = [row[0] for row in connection.execute("SELECT id FROM networks ORDER BY id").fetchall()]
            for network in networks:
                made: int | None = 0
                while made is not None:
                    with self._writing(f"roll up metrics in {self.path}") as connection:
                        made = upkeep.roll_up_some(connection, network)
                    rolled += made or 0
                with self._writing(f"remove old metrics from {self.path}") as connection:
                    forgotten += upkeep.forget(connection, network, self.retention, now_ns)
            freed = self._rewrite() if self._is_worth_rewriting() else None
        return Upkeep(rolled, forgotten, freed)

    # --- turns

    @contextlib.contextmanager
    def _writing(self, doing: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """The writers' connection, in a transaction that is committed at the end, and rolled back if anything is raised."""
        with self._turn, explained(doing):
            changes = len(self._changes or ())
            try:
                with _transaction(self._opened()) as connection:
                    yield connection
            except BaseException:
                self._ids.clear()  # of VMs that were made only to be taken back
                del (self._changes or [])[changes:]
                raise

    @contextlib.contextmanager
    def _reading(self, doing: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of the reader's own, in a transaction: it sees the store as it is now."""
        with self._gate.passed(), explained(doing), self._opened().cursor() as cursor, _transaction(cursor) as connection:
            yield connection

    def _opened(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            raise RuntimeError("the metric store isn't open: use it in a `with` block")
        return self._connection

    def _made_ids(self, connection: duckdb.DuckDBPyConnection, batch: MetricBatch) -> tuple[int, rows.Ids]:
        """The ids of the batch's network and VMs; those that have none get one. Remembered, as the same VMs come again."""
        key, epoch = (batch.network, batch.origin.value, batch.vms), rows.epoch(connection)
        if key in self._ids and self._ids[key][0] == epoch:
            return self._ids[key][1:]
        network = rows.network_id(connection, batch.network, batch.origin.value)
        if network is None:
            network = rows.make_network(connection, batch.network, batch.origin.value)
        known = rows.vm_ids(connection, network)
        unknown = [vm for vm in batch.vms if vm not in known]
        if unknown:
            rows.make_vms(connection, network, unknown)
            known = rows.vm_ids(connection, network)
        if len(self._ids) >= _LOOKED_UP:
            self._ids.clear()
        self._ids[key] = epoch, network, _ids_of(batch.vms, known)
        return self._ids[key][1:]

    def _note(
        self, connection: duckdb.DuckDBPyConnection, network: int, batch: MetricBatch, interval_ns: int, *, rolled: bool
    ) -> None:
        """Notes for a rewriting under way what a batch may have changed."""
        if self._changes is None:
            return
        reach = rows.extent(connection, network)
        longest_ns = max(interval_ns, reach[2] if reach else 0)
        span = int(batch.start_ns[0]) - longest_ns, int(batch.start_ns[-1]) + interval_ns
        self._changes.append(upkeep.Change(network, span, rolled))

    # --- rewriting

    def _is_worth_rewriting(self) -> bool:
        bounds = self.rewriting
        with self._reading(f"measure {self.path}") as connection:
            total, used = files.total_bytes(connection), files.used_bytes(connection)
            ((before,),) = connection.execute("SELECT sorted_bytes FROM adumbra_store").fetchall()
        if total < bounds.least_bytes or files.is_open_here(self._file, 2):
            return False
        with contextlib.suppress(OSError):
            if shutil.disk_usage(self._file.parent).free < 2 * used + min(10 * used, _MOST_SORTED_BYTES):
                return False
        return total - used >= bounds.free_share * total or used >= bounds.growth * before

    def _rewrite(self) -> int | None:
        """Writes all rows into a new file, by network, VM and time, and puts it in the place of the old one.

        Writers go on meanwhile; what they change is copied again. Returns by how many bytes the file shrank (less than 0:
        grew); None where it could not be swapped now, and stays as it is.
        """
        before, fresh = self._file.stat().st_size, files.rewritten(self._file)
        files.remove_file(fresh)
        try:
            with explained(f"rewrite {self.path}"), contextlib.ExitStack() as held:
                with self._gate.passed(), self._opened().cursor() as cursor, _attached(cursor, fresh):
                    with self._turn:
                        self._changes = []
                    for statement in upkeep.copies(cursor):
                        cursor.execute(statement)
                        if self._closing.is_set():
                            return None
                    for _ in range(_CATCHING_UP):
                        if not self._caught_up(cursor):
                            break
                    held.enter_context(self._turn)  # nothing may change from here until the swap
                    self._caught_up(cursor)
                    for statement in upkeep.book_copies(files.used_bytes(cursor, "fresh")):
                        cursor.execute(statement)
                    cursor.execute("CHECKPOINT fresh")
                swapped = self._swap()
            return before - self._file.stat().st_size if swapped else None
        finally:
            self._changes = None
            files.remove_file(fresh)

    def _caught_up(self, cursor: duckdb.DuckDBPyConnection) -> bool:
        """Copies anew what changed meanwhile. Returns whether anything did."""
        with self._turn:
            changes, self._changes = self._changes or [], []
        for change in upkeep.merged(changes):
            with _transaction(cursor):
                for statement in upkeep.recopies(change):
                    cursor.execute(statement)
        return bool(changes)

    def _swap(self) -> bool:
        """Closes the file, puts the rewritten one in its place, and opens that. Returns False where others use it."""
        with contextlib.suppress(TimeoutError), self._gate.closed(_SWAP_WAITS_S), files.folder_held(self._file):
            if files.is_open_here(self._file, 2):
                return False
            connection, self._connection = self._opened(), None
            try:
                connection.execute("CHECKPOINT")  # closing does it too, but keeps silent when it fails
                connection.close()
                files.swap(self._file)
            finally:
                self._connection = files.connect(self._file)
            return True
        return False


@contextlib.contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    connection.begin()
    try:
        yield connection
        connection.commit()
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # a failed commit has been rolled back already
            connection.rollback()
        raise


@contextlib.contextmanager
def _attached(cursor: duckdb.DuckDBPyConnection, path: Path) -> Iterator[None]:
    """A new, empty store in another file, as `fresh` beside the connection's own."""
    cursor.execute(f"ATTACH {files.quoted(path)} AS fresh")
    try:
        files.make_tables(cursor, "fresh")
        yield
    finally:
        with contextlib.suppress(duckdb.Error):
            cursor.execute("DETACH fresh")


def _stored(runs: Sequence[Run]) -> list[Stored]:
    """The runs by the length of their intervals."""
    found: dict[int, Stored] = {}
    for run in runs:
        known = found.get(run.interval_ns, Stored(run.interval_ns, run.first_ns, run.last_ns))
        first_ns, last_ns = min(known.first_ns, run.first_ns), max(known.last_ns, run.last_ns)
        found[run.interval_ns] = Stored(run.interval_ns, first_ns, last_ns)
    return list(found.values())


def _ids_of(vms: tuple[str, ...], known: Mapping[str, int]) -> rows.Ids:
    """The ids of VMs, -1 of those that have none."""
    return np.fromiter((known.get(vm, -1) for vm in vms), np.int32, len(vms))


def _vms(connection: duckdb.DuckDBPyConnection, network: str) -> tuple[str, ...]:
    found = connection.execute(
        "SELECT DISTINCT vm FROM vms JOIN networks ON vms.network = networks.id WHERE networks.network = ?", [network]
    ).fetchall()
    return natural_order(row[0] for row in found)


def _fill(query: SeriesQuery, vms: tuple[str, ...], grid: Grid, cells: Mapping[str, NDArray[Any]]) -> Series:
    def spread(name: str) -> Floats:
        values = np.full((len(vms), grid.steps), np.nan)
        if cells:
            values[cells["at_vm"], cells["at_step"]] = np.ma.filled(cells[name], np.nan)
        return values

    values = {name: spread(name) for name in dict.fromkeys(query.columns)}
    return Series(query.network, vms, grid.start_ns, grid.step_ns / NANOSECONDS, values, spread("at_one_sided"))
