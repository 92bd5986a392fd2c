"""What is to be learned now: which networks are due for a training, or for a profile from a new one. Queues jobs, does none.

`due` decides, purely, by times; the loop looks these up for the networks that this server owns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from adumbra.daemon.ownership import Ownership
from adumbra.schema.errors import AdumbraError, ConflictError, NotFoundError
from adumbra.schema.jobs import JobKind, JobRecord, JobState
from adumbra.schema.records import NANOSECONDS
from adumbra.schema.state import NetworkState
from adumbra.schema.units import format_duration
from adumbra.service.workspace import Workspace

BY = "server"
"""Who asks for these jobs."""
DAY_S = 86_400.0
_DIAL = ("shortfall", "horizon_s", "risk")


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to learn.

    every_s: how old the last training may be, inf: nothing is learned by itself; first_s: how much must be seen to learn from
    at all; growth: and how much more than was learned from, as a share of that, to learn again earlier; retry_s: how long to
    wait after a failure.
    """

    every_s: float = DAY_S
    first_s: float = 600.0
    growth: float = 0.5
    retry_s: float = 3_600.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a network. None: there is none.

    start_ns, end_ns: what is stored of it; trained_ns: when it was trained last, whether that serves or not, learned_end_ns: up
    to which time that learned, learned_s: from how much; served_ns: since when what serves does; profiled_ns: when the newest
    profile was made, declared_ns: and its spec; failed_ns: when the last job of a kind ended, if in vain; busy: the kinds of
    its open jobs.
    """

    start_ns: int | None = None
    end_ns: int | None = None
    trained_ns: int | None = None
    learned_end_ns: int | None = None
    learned_s: float = 0.0
    served_ns: int | None = None
    profiled_ns: int | None = None
    declared_ns: int = 0
    failed_ns: Mapping[JobKind, int] = field(default_factory=dict)
    busy: frozenset[JobKind] = frozenset()


@dataclass(frozen=True, slots=True)
class Due:
    """A job that is to be queued, and why."""

    kind: JobKind
    why: str


def due(seen: Seen, schedule: Schedule, now_ns: int) -> Due | None:
    """What of a network is due now, a training before a profile; None: nothing. Pure."""
    if math.isinf(schedule.every_s) or seen.busy & {JobKind.TRAIN, JobKind.PROFILE, JobKind.CALIBRATE}:
        return None  # nobody wants it; or what comes of these is looked at once they have ended
    why = _training_due(seen, schedule, now_ns)
    if why and not _failed_lately(seen, JobKind.TRAIN, schedule, now_ns):
        return Due(JobKind.TRAIN, why)
    why = _profile_due(seen)
    if why and not _failed_lately(seen, JobKind.PROFILE, schedule, now_ns):
        return Due(JobKind.PROFILE, why)
    return None


def _training_due(seen: Seen, schedule: Schedule, now_ns: int) -> str:
    """Why it is time to train, "" where it isn't."""
    if seen.start_ns is None or seen.end_ns is None:
        return ""
    stored_s = (seen.end_ns - seen.start_ns) / NANOSECONDS
    if seen.trained_ns is None:
        return f"{format_duration(stored_s)} are stored, and nothing was learned yet" if stored_s >= schedule.first_s else ""
    new_s = (seen.end_ns - (seen.learned_end_ns if seen.learned_end_ns is not None else seen.trained_ns)) / NANOSECONDS
    if new_s < schedule.first_s:
        return ""
    if (now_ns - seen.trained_ns) / NANOSECONDS >= schedule.every_s:
        return f"the last training is {format_duration((now_ns - seen.trained_ns) / NANOSECONDS)} old"
    if new_s >= schedule.growth * seen.learned_s:
        return f"{format_duration(new_s)} are new beside the {format_duration(seen.learned_s)} that were learned from"
    return ""


def _profile_due(seen: Seen) -> str:
    """Why it is time for a profile, "" where it isn't."""
    if seen.served_ns is None:
        return ""
    if seen.profiled_ns is None:
        return "there is a training, and no profile yet"
    if seen.profiled_ns < seen.served_ns:
        return "there is a new training"
    return "the spec is newer than the profile" if seen.profiled_ns < seen.declared_ns else ""


def _failed_lately(seen: Seen, kind: JobKind, schedule: Schedule, now_ns: int) -> bool:
    failed_ns = seen.failed_ns.get(kind)
    # In time to come, it was noted by a clock that has gone back since.
    return failed_ns is not None and 0 <= now_ns - failed_ns < schedule.retry_s * NANOSECONDS


def last_failures(jobs: Sequence[JobRecord]) -> dict[JobKind, int]:
    """When the newest job of each kind ended, of those whose newest ended in vain. jobs: newest first. Pure."""
    newest: dict[JobKind, JobRecord] = {}
    for job in jobs:
        if job.state.over:
            newest.setdefault(job.kind, job)
    return {
        kind: job.finished_ns for kind, job in newest.items() if job.state is not JobState.DONE and job.finished_ns is not None
    }


class Learning:
    """The loop that queues what is due."""

    def __init__(
        self, workspace: Workspace, now: Callable[[], int], ownership: Ownership, schedule: Schedule, wake: Callable[[], None]
    ) -> None:
        self._workspace, self._now, self._owned, self._schedule, self._wake = workspace, now, ownership, schedule, wake
        self._log = structlog.get_logger(__name__).bind(loop="learning")

    def turn(self) -> None:
        """One look at the networks that are owned. One whose stores fail doesn't keep others from being looked at."""
        busy: dict[str, set[JobKind]] = {}
        for job in self._workspace.state.jobs.open():
            busy.setdefault(job.network, set()).add(job.kind)
        trouble: AdumbraError | None = None
        for name in filter(self._owned.owns, self._workspace.state.network_numbers()):
            try:
                self._look_at(name, frozenset(busy.get(name, ())))
            except NotFoundError:
                continue  # deleted meanwhile
            except AdumbraError as error:
                trouble = trouble or error
        if trouble is not None:
            raise trouble

    def _look_at(self, name: str, busy: frozenset[JobKind]) -> None:
        state = self._workspace.state
        if state.network(name).state is NetworkState.DELETING:
            return
        found = due(self._seen(name, busy), self._schedule, self._now())
        if found is None:
            return
        asked = {"seed": None} if found.kind is JobKind.TRAIN else self._dial(name)
        try:
            job = state.jobs.add(name, found.kind, asked, BY, self._now())
        except ConflictError:  # too many wait: later
            return
        self._log.info("queued", network=name, kind=found.kind.value, job=job.id, why=found.why)
        self._wake()

    def _seen(self, name: str, busy: frozenset[JobKind]) -> Seen:
        state = self._workspace.state
        span = self._workspace.metrics.span(name)
        if span is None:
            return Seen(busy=busy)
        trainings, profile, versions = state.trainings(name), state.profile(name), state.network_versions(name)
        newest = trainings[0] if trainings else None
        return Seen(
            span[0], span[1],
            newest.created_ns if newest else None,
            newest.origin["end_ns"] if newest and newest.origin else None,
            float(newest.summary.get("learned_s") or 0.0) if newest else 0.0,
            next((each.served_ns for each in trainings if each.serves), None),
            profile.created_ns if profile else None,
            versions[0].replaced_ns if versions else 0,
            last_failures(state.jobs.of(name)),
            busy,
        )  # fmt: skip

    def _dial(self, name: str) -> dict[str, Any]:
        """What the profile is asked for: what the last one was, unless the spec is newer."""
        last, versions = self._workspace.state.profile(name), self._workspace.state.network_versions(name)
        if last is None or last.created_ns < (versions[0].replaced_ns if versions else 0):
            return dict.fromkeys(_DIAL)
        return {key: last.profile.get(key) for key in _DIAL}
