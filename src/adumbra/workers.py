"""Metering in processes of their own: each meters its share of one source, and what they count is added up here.

A worker holds no privilege once it runs: what needs one, a socket, is opened here and handed over. Stores nothing.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from typing import Protocol, Self

import numpy as np

from adumbra.decode.share import Share
from adumbra.meter.summary import Summary
from adumbra.meter.tally import Tally, merge
from adumbra.metering import PacketMetering, Watch
from adumbra.schema.errors import AdumbraError, SourceError
from adumbra.schema.records import Accounts, Intervals, Losses, Outcome
from adumbra.tap import privileges
from adumbra.tap.protocol import Source

_REPORT_EVERY_S = 0.2
_STOP_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Running:
    """What a source that goes on needs of the world: `now`, ns since the epoch, whether it should stop, and whom to tell once
    nothing more will be missed.
    """

    now: Callable[[], int]
    should_stop: Callable[[], bool] = lambda: False
    ready: Callable[[], None] = lambda: None


class Tap(Protocol):
    """How a worker comes by its source. Picklable: it may hold sockets that were opened before."""

    @property
    def name(self) -> str: ...

    def open(self, running: Running) -> Source: ...


@dataclass(frozen=True, slots=True)
class Job:
    """One worker's part: a source, and of it all, or a share."""

    tap: Tap
    watch: Watch
    share: Share | None = None


@dataclass(frozen=True, slots=True)
class _Report:
    """What a worker says now and then: what it counted since, how far it is, and how it ended, if it has."""

    tallies: tuple[Tally, ...]
    closed_to_ns: int
    accounts: Accounts
    progress: float | None
    notes: tuple[str, ...] = ()
    ended: bool = False
    error: tuple[str, str] | None = None


class Workers:
    """One source metered by several processes, as if by one: use by `with`, then iterate once. `running.now` must be a
    function that other processes can import.

    Raises SourceError where a worker fails; the others are stopped then.
    """

    def __init__(self, jobs: Sequence[Job], running: Running) -> None:
        if not jobs:
            raise ValueError("there is nothing to meter; give at least one job")
        self._jobs = tuple(jobs)
        self._running = running
        self._context = multiprocessing.get_context("spawn")
        self._stopping: Event = self._context.Event()
        self.processes: list[SpawnProcess] = []
        self._pipes: list[Connection] = []
        self._reports: list[_Report | None] = [None] * len(jobs)
        watch = jobs[0].watch
        self._summary = Summary(len(watch.vms))

    @property
    def name(self) -> str:
        return self._jobs[0].tap.name

    def __enter__(self) -> Self:
        with _one_thread_each():
            self._start()
        return self

    def _start(self) -> None:
        for job in self._jobs:
            ours, theirs = self._context.Pipe(duplex=False)
            process = self._context.Process(target=_work, args=(job, theirs, self._running.now, self._stopping), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self._pipes.append(ours)

    def __exit__(self, *exc: object) -> None:
        self._stopping.set()
        for pipe in self._pipes:  # a worker that waits to be read ends when nobody will
            pipe.close()
        for process in self.processes:
            process.join(_STOP_WITHIN_S)
            if process.is_alive():
                process.kill()
                process.join()

    def __iter__(self) -> Iterator[Intervals]:
        """Closed intervals once every worker has closed them."""
        pending: list[list[Tally]] = [[] for _ in self._jobs]
        ready_said = False
        running = dict(zip(self._pipes, range(len(self._jobs)), strict=True))
        while running:
            for pipe in wait(list(running), timeout=_REPORT_EVERY_S):
                assert isinstance(pipe, Connection)
                worker = running[pipe]
                report = self._receive(pipe, worker)
                self._reports[worker] = report
                pending[worker] += report.tallies
                if report.ended:
                    del running[pipe]
            if all(self._reports):
                if not ready_said:
                    self._running.ready()
                    ready_said = True
                if self._running.should_stop():
                    self._stopping.set()
            for tally in ready(pending, [_closed_to_ns(report) for report in self._reports]):
                yield self._summary.intervals(tally)

    def accounts(self) -> Accounts:
        """The sum of the workers' accounts, as of their last reports."""
        return add_accounts([report.accounts for report in self._reports if report is not None])

    def progress(self) -> float | None:
        told = [report.progress if report else 0.0 for report in self._reports]
        return None if any(share is None for share in told) else min(share for share in told if share is not None)

    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(note for report in self._reports if report for note in report.notes))

    def _receive(self, pipe: Connection, worker: int) -> _Report:
        try:
            report = pipe.recv()
        except (EOFError, OSError):
            self.processes[worker].join(_STOP_WITHIN_S)
            status = self.processes[worker].exitcode
            raise SourceError(
                f"the process that metered {self._jobs[worker].tap.name} died (status {status}); what was stored before stays",
                "run the same command again",
            ) from None
        assert isinstance(report, _Report)
        if report.error is not None:
            raise SourceError(*report.error)
        return report


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


def _closed_to_ns(report: _Report | None) -> int:
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
        return Accounts(0, {}, 0, 0, 0, 0, 0, 0, 0)
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


def _work(job: Job, pipe: Connection, now: Callable[[], int], stopping: Event) -> None:
    """A worker's life: opens its source, gives up every privilege, meters until the source ends or it is told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a ^C reaches all processes; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody listens any more
        try:
            with job.tap.open(Running(now, stopping.is_set)) as source:
                metering = PacketMetering(job.watch, source, job.share)
                metering.warm_up()
                privileges.drop_all()
                _report(metering, pipe)
        except AdumbraError as error:
            pipe.send(_Report((), 0, add_accounts(()), None, ended=True, error=(error.what, error.mend)))


def _report(metering: PacketMetering, pipe: Connection) -> None:
    """Meters to the end of the source, and says what was counted: at once where intervals closed, else now and then."""
    tallies: list[Tally] = []
    last_s = time.monotonic()
    for closed in metering.batches():
        tallies += closed
        if tallies or time.monotonic() - last_s >= _REPORT_EVERY_S:
            pipe.send(
                _Report(tuple(tallies), metering.closed_to_ns, metering.accounts(), metering.progress(), metering.notes())
            )
            tallies.clear()
            last_s = time.monotonic()
    pipe.send(_said(metering, tuple(tallies), ended=True))


def _said(metering: PacketMetering, tallies: tuple[Tally, ...], *, ended: bool = False) -> _Report:
    return _Report(tallies, metering.closed_to_ns, metering.accounts(), metering.progress(), metering.notes(), ended)
