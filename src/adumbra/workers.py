"""Metering in processes of their own: each meters its share of one source, and what they count is added up here.

A worker holds no privilege once it runs: what needs one, a socket, is opened here and handed over. Stores nothing.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection, wait
from typing import Self

import numpy as np

from adumbra import handing
from adumbra.decode.share import Share
from adumbra.meter.summary import Summary
from adumbra.meter.tally import Tally, merge
from adumbra.metering import Watch
from adumbra.schema.errors import SourceError
from adumbra.schema.records import Accounts, Intervals, Losses, Outcome
from adumbra.tap.bpf import Program
from adumbra.worker import NOTHING, REPORT_EVERY_S, Begin, End, Report, Running, Tap, Task, live

__all__ = ["Gathered", "Hands", "Job", "Running", "Tap", "Workers", "add_accounts", "ready"]

_STOP_WITHIN_S = 20.0
_CONTEXT = multiprocessing.get_context("spawn")

Filters = Callable[[Sequence[Watch]], Sequence[Program | None]]
"""What each worker's socket is to take so that all of these watches find their traffic."""


@dataclass(frozen=True, slots=True)
class Job:
    """One worker's part: a source, and of it all, or a share."""

    tap: Tap
    watch: Watch
    share: Share | None = None


class Hands:
    """Worker processes that wait for a task: so many, begun on entering, and ended on leaving where none was given to them.

    warm: they have loaded all compiled code and hold no privilege while they wait, for sources whose sockets are handed over.
    """

    def __init__(self, count: int, *, warm: bool = False) -> None:
        self._count, self._warm = count, warm
        self.processes: list[multiprocessing.context.SpawnProcess] = []
        self._lines: list[socket.socket] = []

    def __enter__(self) -> Self:
        with _one_thread_each():
            for _ in range(self._count):
                ours, theirs = socket.socketpair()
                process = _CONTEXT.Process(target=live, args=(theirs,), kwargs={"warm": self._warm}, daemon=True)
                with theirs:
                    process.start()
                self.processes.append(process)
                self._lines.append(ours)
        return self

    def __exit__(self, *exc: object) -> None:
        for line in self._lines:  # who waits for a task, or for what else to do, ends when none can come
            line.close()
        for process in self.processes:
            process.join(_STOP_WITHIN_S)
            if process.is_alive():
                process.kill()
                process.join()

    def __len__(self) -> int:
        return self._count

    def wait_until_warm(self, should_stop: Callable[[], bool]) -> None:
        """Waits until all of them have loaded what they will need, or have died, or it should stop."""
        waiting = list(self._lines)
        while waiting and not should_stop():
            for line in wait(waiting, timeout=REPORT_EVERY_S):
                assert isinstance(line, socket.socket)
                with contextlib.suppress(EOFError, OSError):
                    handing.receive(line)
                waiting.remove(line)

    def say(self, worker: int, message: object) -> None:
        """Tells a worker. One that has died is told nothing; whoever listens to it will find out."""
        with contextlib.suppress(OSError):
            handing.send(self._lines[worker], message)


class Gathered:
    """What several workers count for one watch, as if one process did: a Metering, to be iterated once.

    Raises SourceError where a worker fails.
    """

    def __init__(self, workers: Workers, number: int, watch: Watch, running: Running) -> None:
        self._workers, self.number, self.watch, self._running = workers, number, watch, running
        self.pipes: list[Connection] = []
        self._reports: list[Report | None] = [None] * workers.count
        self._summary = Summary(len(watch.vms))
        self._asked_to_end = False

    @property
    def name(self) -> str:
        return self._workers.name

    def __iter__(self) -> Iterator[Intervals]:
        """Closed intervals once every worker has closed them."""
        pending: list[list[Tally]] = [[] for _ in self.pipes]
        ready_said = False
        reporting = dict(zip(self.pipes, range(len(self.pipes)), strict=True))
        while reporting:
            for pipe in wait(list(reporting), timeout=REPORT_EVERY_S):
                assert isinstance(pipe, Connection)
                worker = reporting[pipe]
                report = self._receive(pipe, worker)
                self._reports[worker] = report
                pending[worker] += report.tallies
                if report.ended:
                    del reporting[pipe]
            if all(self._reports):
                if not ready_said:
                    self._running.ready()
                    ready_said = True
                if not self._asked_to_end and self._running.should_stop():
                    self._asked_to_end = True
                    self._workers.end(self.number)
            for tally in ready(pending, [_closed_to_ns(report) for report in self._reports]):
                yield self._summary.intervals(tally)

    def beside(self, watch: Watch, running: Running) -> Gathered:
        """See Workers.beside."""
        return self._workers.beside(watch, running)

    def accounts(self) -> Accounts:
        """The sum of the workers' accounts, as of their last reports."""
        return add_accounts([report.accounts for report in self._reports if report is not None])

    def progress(self) -> float | None:
        told = [report.progress if report else 0.0 for report in self._reports]
        return None if any(share is None for share in told) else min(share for share in told if share is not None)

    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(note for report in self._reports if report for note in report.notes))

    def _receive(self, pipe: Connection, worker: int) -> Report:
        try:
            report = pipe.recv()
        except (EOFError, OSError):
            process = self._workers.processes[worker]
            process.join(_STOP_WITHIN_S)
            what = f"the process that metered {self._workers.name_of(worker)} died (status {process.exitcode})"
            raise SourceError(f"{what}; what was stored before stays", "run the same command again") from None
        assert isinstance(report, Report)
        if report.error is not None:
            raise SourceError(*report.error)
        return report


class Workers:
    """One source metered by several processes, as if by one: use by `with`, then iterate once. `running.now` must be a
    function that other processes can import. hands: the processes, where they have been begun; they are ended on leaving.

    Raises SourceError where a worker fails; the others are stopped then.
    """

    def __init__(
        self, jobs: Sequence[Job], running: Running, hands: Hands | None = None, filters: Filters | None = None
    ) -> None:
        if not jobs:
            raise ValueError("there is nothing to meter; give at least one job")
        self._jobs, self._running = tuple(jobs), running
        self._hands = hands if hands is not None and len(hands) == len(jobs) else Hands(len(jobs))
        self._given = self._hands is hands
        self._filters = filters or (lambda _: [None] * len(jobs))
        self._turn = threading.Lock()
        self._going: list[Gathered] = []
        self._last_number = 0
        self._first = Gathered(self, 0, jobs[0].watch, running)
        self._all: list[Gathered] = [self._first]

    @property
    def name(self) -> str:
        return self._jobs[0].tap.name

    def name_of(self, worker: int) -> str:
        """What that worker meters."""
        return self._jobs[worker].tap.name

    @property
    def count(self) -> int:
        """How many processes there are."""
        return len(self._jobs)

    @property
    def processes(self) -> list[multiprocessing.context.SpawnProcess]:
        return self._hands.processes

    def __enter__(self) -> Self:
        if not self._given:
            self._hands.__enter__()
        with self._turn:
            self._going.append(self._first)
            for worker, job in enumerate(self._jobs):
                begin = self._begin(self._first, None)
                self._hands.say(worker, Task(job.tap, job.share, self._running.now, begin))
                begin.pipe.close()
        return self

    def __exit__(self, *exc: object) -> None:
        for gathered in self._all:
            for pipe in gathered.pipes:  # a worker that waits to be read ends when nobody will
                pipe.close()
        self._hands.__exit__(*exc)

    def __iter__(self) -> Iterator[Intervals]:
        """Closed intervals once every worker has closed them."""
        yield from self._first

    def accounts(self) -> Accounts:
        return self._first.accounts()

    def progress(self) -> float | None:
        return self._first.progress()

    def notes(self) -> tuple[str, ...]:
        return self._first.notes()

    def beside(self, watch: Watch, running: Running) -> Gathered:
        """The same source by another watch, from now on: as long as both are iterated, both are given all its traffic.

        Raises SourceError where the source can't be had for it.
        """
        with self._turn:
            self._last_number += 1
            gathered = Gathered(self, self._last_number, watch, running)
            filters = self._filters([each.watch for each in (*self._going, gathered)])
            self._going.append(gathered)
            self._all.append(gathered)
            for worker, program in enumerate(filters):
                begin = self._begin(gathered, program)
                self._hands.say(worker, begin)
                begin.pipe.close()
        return gathered

    def end(self, number: int) -> None:
        """Has the source metered by that watch no more. After the last one all that was taken is given, and the source ends."""
        with self._turn:
            self._going = [each for each in self._going if each.number != number]
            filters = self._filters([each.watch for each in self._going]) if self._going else [None] * self.count
            for worker, program in enumerate(filters):
                self._hands.say(worker, End(number, program))

    @staticmethod
    def _begin(gathered: Gathered, program: Program | None) -> Begin:
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        gathered.pipes.append(ours)
        return Begin(gathered.number, gathered.watch, theirs, program)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Libraries of linear algebra begin threads when they are loaded, which would keep the capabilities that a worker drops."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _closed_to_ns(report: Report | None) -> int:
    if report is None:
        return 0
    return np.iinfo(np.int64).max if report.ended else report.closed_to_ns


def ready(pending: list[list[Tally]], closed_to_ns: list[int]) -> Iterator[Tally]:
    """Takes out of `pending` what every worker has closed, as one tally: none where there is nothing yet."""
    until = min(closed_to_ns)
    # A tally isn't cut: where one reaches beyond, all wait for what it begins with.
    while straddling := [t.start_ns[0] for tallies in pending for t in tallies if t.start_ns[0] < until < _end_ns(t)]:
        until = int(min(straddling))
    taken = [t for tallies in pending for t in tallies if _end_ns(t) <= until]
    for tallies in pending:
        tallies[:] = [t for t in tallies if _end_ns(t) > until]
    if taken:
        yield merge(taken)


def _end_ns(tally: Tally) -> int:
    return int(tally.start_ns[-1]) + tally.interval_ns


def add_accounts(accounts: Sequence[Accounts]) -> Accounts:
    """The accounts of several shares of one source as one: counts added; the first reason for an early end."""
    if not accounts:
        return NOTHING
    outcomes = {name: sum(each.outcomes.get(name, 0) for each in accounts) for name in accounts[0].outcomes}
    outcomes[Outcome.ELSEWHERE.name.lower()] = 0  # with another of them it counts
    losses = Losses(
        dropped=sum(each.losses.dropped for each in accounts),
        unread_bytes=max(each.losses.unread_bytes for each in accounts),
        ended=next((each.losses.ended for each in accounts if each.losses.ended), ""),
        freezes=sum(each.losses.freezes for each in accounts),
        filtered=sum(each.losses.filtered for each in accounts),
    )
    added = {f.name for f in fields(Accounts)} - {"offered", "outcomes", "losses", "exports"}
    counts = {name: sum(getattr(each, name) for each in accounts) for name in added}
    return Accounts(offered=sum(outcomes.values()), outcomes=outcomes, losses=losses, **counts)
