"""Jobs in the state store: queued, taken by one process each, followed and ended. Works at none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from adumbra.schema.errors import ConflictError
from adumbra.schema.jobs import JobKind, JobQuery, JobRecord, JobState
from adumbra.store import queries, rows, tables
from adumbra.store.database import Database, names_subject
from adumbra.store.names import storable
from adumbra.store.processes import has_died, this_process
from adumbra.store.statements import find, find_kept, held, note, numbered, of_networks

KEPT_JOBS, MAX_QUEUED, MAX_ATTEMPTS = 200, 50, 3
"""How many jobs of a network are kept, how many may wait, and how often one whose process dies is begun."""
_OPEN = (JobState.QUEUED.value, JobState.RUNNING.value)


class JobStore:
    """Work of networks. Times are ns since the epoch; every method raises StoreError when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, network: str, kind: JobKind, asked: Mapping[str, Any], by: str, now_ns: int) -> JobRecord:
        """Queues a job. Raises ConflictError where MAX_QUEUED of the network wait."""
        with self._database.writing(f"queue a job of {network}") as connection:
            owner, table = find_kept(connection, network), tables.jobs
            waiting = sa.select(sa.func.count()).where(table.c.network_id == owner.id, table.c.state.in_(_OPEN))
            if (connection.scalar(waiting) or 0) >= MAX_QUEUED:
                raise ConflictError(f"{MAX_QUEUED} jobs of {network} wait already", "wait for some to end, or cancel them")
            number = rows.insert(
                connection, table, network_id=owner.id, kind=kind.value, asked=rows.plain(asked), state=JobState.QUEUED.value,
                share=None, doing="", trouble="", attempts=0, process="", by=storable(by), created_ns=now_ns,
            )  # fmt: skip
            names_subject(f"job/{number}")
            rows.keep_newest(connection, table, KEPT_JOBS, _OPEN, network_id=owner.id)
            return _job(_find(connection, number))

    def get(self, number: int) -> JobRecord:
        """The job of that number. Raises NotFoundError."""
        with self._database.reading(f"read job {number}") as connection:
            return _job(_find(connection, number))

    def of(self, network: str, limit: int = 100) -> tuple[JobRecord, ...]:
        """A network's newest jobs, newest first. Raises InputError for a limit that isn't one."""
        with self._database.reading(f"list the jobs of {network}") as connection:
            find(connection, network)
            return tuple(_job(row) for row in queries.jobs(connection, JobQuery((network,), limit=limit)))

    def listing(self, query: JobQuery) -> tuple[JobRecord, ...]:
        """Jobs of some networks, or of all, newest first. Raises InputError for a limit that isn't one."""
        with self._database.reading("list jobs") as connection:
            return tuple(_job(row) for row in queries.jobs(connection, query))

    def open(self, kind: JobKind | None = None) -> tuple[JobRecord, ...]:
        """The jobs of all networks that wait or are worked on, oldest first."""
        with self._database.reading("list the jobs that are not over") as connection:
            query = of_networks(tables.jobs).where(tables.jobs.c.state.in_(_OPEN)).order_by(tables.jobs.c.id)
            return tuple(
                _job(row)
                for row in connection.execute(query if kind is None else query.where(tables.jobs.c.kind == kind.value))
            )

    def take(self, number: int, now_ns: int) -> JobRecord | None:
        """Notes that this process works at a job that waits; None where another took it, or it is over."""
        table = tables.jobs
        with self._database.writing(f"take job {number}") as connection:
            chosen = (table.c.id == number) & (table.c.state == JobState.QUEUED.value)
            new = {"state": JobState.RUNNING.value, "process": this_process(), "started_ns": now_ns, "share": None}
            done = connection.execute(sa.update(table).where(chosen).values(attempts=table.c.attempts + 1, **new))
            return _job(_find(connection, number)) if done.rowcount else None

    def tell(self, number: int, share: float | None, doing: str) -> bool:
        """Notes how far a job of this process is. Gives whether it is still: else it was cancelled, or given to another."""
        table = tables.jobs
        with self._database.writing(f"note how far job {number} is") as connection:
            chosen = (table.c.id == number) & (table.c.state == JobState.RUNNING.value) & (table.c.process == this_process())
            told = {"share": share, "doing": storable(doing)[:500]}
            return bool(connection.execute(sa.update(table).where(chosen).values(**told)).rowcount)

    def finish(
        self, number: int, state: JobState, now_ns: int, result: Mapping[str, Any] | None = None, trouble: str = "",
        *, process: str | None = None,
    ) -> JobRecord:  # fmt: skip
        """Notes how a job ended, with an event. One that is over stays as it is, and so does one that another process works at
        than the one that says so (process; None: whoever says so isn't its worker). Raises NotFoundError.
        """
        table = tables.jobs
        with self._database.writing(f"finish job {number}") as connection:
            found = _find(connection, number)
            names_subject(f"job/{number}")
            if JobState(found.state).over or process not in {None, found.process}:
                return _job(found)
            new = {
                "state": state.value, "finished_ns": now_ns, "result": rows.plain(result), "trouble": storable(trouble)[:2000],
                "share": 1.0 if state is JobState.DONE else found.share,
            }  # fmt: skip
            connection.execute(sa.update(table).where(table.c.id == number).values(**new))
            why = f": {trouble}" if trouble else "."
            note(connection, now_ns, found.network, f"job.{state.value}", f"Job {number}, {found.kind}, is {state.value}{why}",
                 id=number, kind=found.kind)  # fmt: skip
            return _job(_find(connection, number))

    def lay_down(self, number: int, process: str, now_ns: int) -> bool:
        """Queues again a job that its worker was asked to leave: that isn't an attempt. Gives whether it was that process's."""
        table = tables.jobs
        with self._database.writing(f"queue job {number} again") as connection:
            chosen = (table.c.id == number) & (table.c.state == JobState.RUNNING.value) & (table.c.process == process)
            new: dict[str, Any] = {"state": JobState.QUEUED.value, "process": "", "attempts": table.c.attempts - 1}
            if not connection.execute(sa.update(table).where(chosen).values(**new)).rowcount:
                return False
            found = _find(connection, number)
            message = f"Job {number}, {found.kind}, waits again: its server stopped."
            note(connection, now_ns, found.network, "job.queued", message, id=number, kind=found.kind)
            return True

    def put_back(self, now_ns: int, left: Callable[[JobRecord], bool] = lambda _: False) -> tuple[JobRecord, ...]:
        """Queues again the jobs whose process died, or of which `left` says that their worker is gone; those begun MAX_ATTEMPTS
        times fail. Gives them as they are then."""
        table = tables.jobs
        told = []
        with self._database.writing("look for interrupted jobs") as connection:
            running = held(
                connection, of_networks(tables.jobs).where(table.c.state == JobState.RUNNING.value).order_by(table.c.id), table
            )
            for row in running:
                if not has_died(row.process, other_hosts=not self._database.on_one_host) and not left(_job(row)):
                    continue
                again = row.attempts < MAX_ATTEMPTS
                trouble = "" if again else f"whoever worked at it died {row.attempts} times"
                state = JobState.QUEUED if again else JobState.FAILED
                new: dict[str, Any] = {"state": state.value, "process": "", "trouble": trouble}
                connection.execute(
                    sa.update(table).where(table.c.id == row.id).values(finished_ns=None if again else now_ns, **new)
                )
                said = "is begun again" if again else f"is failed: {trouble}"
                message = f"Job {row.id}, {row.kind}, was interrupted; it {said}."
                note(connection, now_ns, row.network, f"job.{state.value}", message, id=row.id, kind=row.kind)
                told.append(_job(_find(connection, row.id)))
        return tuple(told)


def _find(connection: sa.Connection, number: int) -> sa.Row[Any]:
    return numbered(connection, tables.jobs, number, "job", "its network was deleted, or newer jobs took its place")


def _job(row: sa.Row[Any]) -> JobRecord:
    return JobRecord(
        row.id, row.network, JobKind(row.kind), row.asked, JobState(row.state), row.share, row.doing, row.result, row.trouble,
        row.attempts, row.process, row.by, row.created_ns, row.started_ns, row.finished_ns,
    )  # fmt: skip
