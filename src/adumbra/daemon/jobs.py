"""Works off what is queued: each job in a process of its own, a bounded number at once, of networks that this server owns.

A job whose worker dies is queued again, a few times; one that is cancelled ends at once. Does none of the work itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from adumbra.daemon.children import Begun, Child, end_all
from adumbra.daemon.loops import pause_s
from adumbra.daemon.ownership import Ownership
from adumbra.schema.errors import AdumbraError, NotFoundError
from adumbra.schema.jobs import JobKind, JobRecord, JobState
from adumbra.service import uploads
from adumbra.service.workspace import Workspace
from adumbra.store.processes import is_here

AT_ONCE = 2
TURN_S = 1.0
CANCEL_S = 5.0
"""How long the worker of a job that was cancelled has to end."""
LEFT_S = 20.0
"""A job that a worker elsewhere had is given to another once its network has been owned for so long: that one is dead then."""
_BESIDE_OTHERS = frozenset({JobKind.WHATIF})
"""What changes nothing may be worked on beside other jobs of its network."""


@dataclass(slots=True)
class _Worker:
    job: JobRecord
    child: Child
    ended: Callable[[], None]


def to_begin(
    waiting: Sequence[JobRecord], working: Collection[JobRecord], owned: Callable[[str], bool], at_once: int = AT_ONCE
) -> tuple[JobRecord, ...]:
    """Which of the jobs that wait are begun now, oldest first: as many as there is room for, and of each network one at a time,
    but for those that change nothing. Pure."""
    room = at_once - len(working)
    busy = {job.network for job in working if job.kind not in _BESIDE_OTHERS}
    chosen: list[JobRecord] = []
    for job in waiting:
        if len(chosen) >= room:
            break
        alone = job.kind not in _BESIDE_OTHERS
        if job.state is not JobState.QUEUED or not owned(job.network) or (alone and job.network in busy):
            continue
        chosen.append(job)
        if alone:
            busy.add(job.network)
    return tuple(chosen)


class Jobs:
    """The queue's loop. begun: the command that works at a job. Only its own thread may call `turn`."""

    def __init__(
        self, workspace: Workspace, now: Callable[[], int], ownership: Ownership, begun: Callable[[JobRecord], Begun],
        at_once: int = AT_ONCE,
    ) -> None:  # fmt: skip
        self._workspace, self._now, self._owned, self._begun = workspace, now, ownership, begun
        self._at_once = at_once
        self._workers: dict[int, _Worker] = {}
        self._died: dict[int, tuple[int, float]] = {}
        self._log = structlog.get_logger(__name__).bind(loop="jobs")
        self.count = 0

    def turn(self) -> None:
        """One look at the queue, and at the workers."""
        open_jobs = self._workspace.state.jobs.open()
        by_number = {job.id: job for job in open_jobs}
        self._bury(by_number)
        self._end_others(by_number)
        for job in self._workspace.state.jobs.put_back(self._now(), self._is_left):
            self._log.warning("a job's worker died", job=job.id, network=job.network, state=job.state.value)
            if job.state.over:
                uploads.drop(self._workspace, job.asked)
        ready = [job for job in open_jobs if job.id not in self._workers and not self._rests(job)]
        working = [worker.job for worker in self._workers.values()]
        for job in to_begin(ready, working, self._owned.owns, self._at_once):
            self._begin(job)

    def working(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    def end(self, for_s: float) -> None:
        """Ends the workers; their jobs wait again, for the next server. The loop's thread must have ended."""
        workers, self._workers = list(self._workers.values()), {}
        end_all([worker.child for worker in workers], for_s)
        for worker in workers:
            worker.ended()
            self._lay_down(worker)

    def kill(self) -> None:
        """Ends the workers at once."""
        for worker in list(self._workers.values()):
            worker.child.kill()

    def cut(self) -> None:
        """Ends at once those of networks that aren't owned any more. Asks no store, and may be called from any thread."""
        for worker in list(self._workers.values()):
            if not self._owned.owns(worker.job.network):
                worker.child.kill()

    def _begin(self, job: JobRecord) -> None:
        begun = self._begun(job)
        log = self._log.bind(job=job.id, network=job.network, kind=job.kind.value)
        try:
            child = Child(begun.command, lambda line: log.info("worker", said=line))
        except BaseException:
            begun.ended()
            raise
        self._workers[job.id] = _Worker(job, child, begun.ended)
        self.count += 1
        log.info("begun")

    def _bury(self, open_jobs: Mapping[int, JobRecord]) -> None:
        """Takes note of the workers that have ended."""
        for number, worker in list(self._workers.items()):
            status = worker.child.status()
            if status is None:
                continue
            del self._workers[number]
            worker.ended()
            if number not in open_jobs:  # it may have been cancelled, and so couldn't do this itself
                uploads.drop(self._workspace, worker.job.asked)
            if status == 0:
                self._died.pop(number, None)
            else:
                died = self._died.get(number, (0, 0.0))[0] + 1
                self._died[number] = (died, time.monotonic())
                said = worker.child.last_words()
                self._log.warning("a worker failed", job=number, network=worker.job.network, status=status, said=said)
        if len(self._died) > 1_000:
            self._died.clear()

    def _rests(self, job: JobRecord) -> bool:
        """Whether it is too soon to begin again what has just failed."""
        died, when_s = self._died.get(job.id, (0, 0.0))
        return time.monotonic() - when_s < pause_s(died)

    def _end_others(self, open_jobs: Mapping[int, JobRecord]) -> None:
        """Ends the workers whose job was cancelled, or is of a network that this server doesn't own any more."""
        for number, worker in self._workers.items():
            if not self._owned.owns(worker.job.network):
                worker.child.kill()  # its next owner may begin it any moment
            elif number not in open_jobs and not self._has_ended(number):
                worker.child.stop(CANCEL_S)

    def _has_ended(self, number: int) -> bool:
        """Whether a job that isn't open was ended by its worker, which then needs no telling."""
        try:
            return self._workspace.state.jobs.get(number).state in {JobState.DONE, JobState.FAILED}
        except NotFoundError:
            return False

    def _is_left(self, job: JobRecord) -> bool:
        """Whether a worker of another place is dead: its server is, for this one owns the network, and has for long enough."""
        since_s = self._owned.since_s(job.network)
        return since_s is not None and since_s >= LEFT_S and not is_here(job.process)

    def _lay_down(self, worker: _Worker) -> None:
        try:
            self._workspace.state.jobs.lay_down(worker.job.id, worker.child.process, self._now())
        except AdumbraError as error:  # it is put back by whoever comes next
            self._log.warning("a job could not be queued again", job=worker.job.id, trouble=str(error))
