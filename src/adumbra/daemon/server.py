"""The daemon of a server: its loops, started, watched and stopped together. Serves no request, reads no clock but `now`.

    ownership    every 2 s    which networks are this server's to look after
    lease        every 1 s    ends the children of networks that aren't any more; asks no store, which may be why
    recovery     every 30 s   what a process that died left half done; once, before anything else moves
    taps         every 1 s    a process for each source that is to be observed here
    silence      every 5 s    taps on other hosts that say nothing any more
    jobs         every 1 s    a process for each job, some at once
    learning     every 60 s   what is due to be trained or sized anew, as jobs
    watching     every 5 s    the real machines of active networks are read, and learned from
    upkeep       every 5 min  roll-ups and retention of the embedded metric store, files that nobody reads

Each is woken by what is asked of the API; what is asked of another server over the same state is found by looking.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from adumbra.daemon.commands import Commands
from adumbra.daemon.insiders import Insiders
from adumbra.daemon.jobs import AT_ONCE, Jobs
from adumbra.daemon.jobs import TURN_S as JOBS_S
from adumbra.daemon.learning import Learning, Schedule
from adumbra.daemon.loops import Loop
from adumbra.daemon.ownership import BEAT_S, ownership_of
from adumbra.daemon.readings import of_children, of_loops, of_state, of_stores
from adumbra.daemon.taps import STOP_S as TAPS_STOP_S
from adumbra.daemon.taps import TURN_S as TAPS_S
from adumbra.daemon.taps import Taps
from adumbra.daemon.watching import Watch, Watching
from adumbra.schema.records import NANOSECONDS
from adumbra.service import taps, upkeep, uploads
from adumbra.service.recovery import recover
from adumbra.service.workspace import Workspace
from adumbra.telemetry import Telemetry

RECOVERY_S, LEARNING_S, UPKEEP_S, LEASE_LOOK_S, SILENCE_S = 30.0, 60.0, 300.0, 1.0, 5.0
STOP_S = 25.0
"""How long everything has, in all, to end in good order."""
DELETING_S = 60.0
"""A deletion that began so long ago, and isn't done, was interrupted."""
UPLOADS_S = 86_400.0
OFTEN_S = 5.0
"""The longest pause of loops that others wait for, however often they failed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the daemon does by itself. jobs: how many at once; schedule: when to learn; watch: how live machines are read."""

    jobs: int = AT_ONCE
    schedule: Schedule = field(default_factory=Schedule)
    watch: Watch = field(default_factory=Watch)


class Daemon:
    """The loops over a workspace. now: the clock, ns since the epoch; url: where the server's own children reach it; others:
    loops that are to be run beside these."""

    def __init__(
        self, workspace: Workspace, now: Callable[[], int], url: Callable[[], str], plan: Plan | None = None,
        *, others: Sequence[Loop] = (),
    ) -> None:  # fmt: skip
        plan = plan or Plan()
        self._workspace, self._now = workspace, now
        self._stopping, self._recovered = threading.Event(), threading.Event()
        self._log = structlog.get_logger(__name__)
        self.insiders = Insiders()
        self.ownership = ownership_of(workspace.state, self.wake)
        commands = Commands(workspace, self.insiders, url)
        self.taps = Taps(workspace, now, self.ownership, commands.tap, socket.gethostname())
        self.jobs = Jobs(workspace, now, self.ownership, commands.job, plan.jobs)
        learning = Learning(workspace, now, self.ownership, plan.schedule, self.wake)
        self.watching = Watching(workspace, now, self.ownership, plan.watch, self.wake)
        self._owning = Loop("ownership", self.ownership.turn, BEAT_S, OFTEN_S)
        self._moving = (
            Loop("lease", self._cut, LEASE_LOOK_S),
            Loop("taps", self._once_recovered(self.taps.turn), TAPS_S, OFTEN_S),
            Loop("jobs", self._once_recovered(self.jobs.turn), JOBS_S, OFTEN_S),
            Loop("learning", self._once_recovered(learning.turn), LEARNING_S),
            Loop("watching", self._once_recovered(self.watching.turn), min(plan.watch.every_s, LEARNING_S)),
            Loop("silence", self._once_recovered(self._note_silent), SILENCE_S),
            Loop("upkeep", self._once_recovered(self._upkeep), UPKEEP_S),
            *others,
        )
        self._recovering = Loop("recovery", self._recover, RECOVERY_S, OFTEN_S)
        self.loops = (self._owning, self._recovering, *self._moving)
        self._woken = (self._owning, *self._moving[:3])

    def start(self) -> None:
        """Starts the loops. What was left half done is ended by them, first of all."""
        for loop in self.loops:
            loop.start()

    def wake(self) -> None:
        """There may be something to do, or less than before."""
        for loop in self._woken:
            loop.wake()

    def ready(self) -> bool:
        """Whether requests should be sent here: it has recovered, its loops live, and it isn't stopping."""
        return self._recovered.is_set() and not self._stopping.is_set() and all(loop.alive for loop in self.loops)

    def health(self) -> dict[str, str]:
        """What is to be known of each loop, "ok" where nothing is."""
        return {loop.name: str(loop.health()) if loop.alive else "it does not run" for loop in self.loops}

    def watch(self, telemetry: Telemetry) -> None:
        """Has all this told whenever somebody scrapes."""
        telemetry.watch(lambda: of_loops(self.loops))
        telemetry.watch(lambda: of_children(self.taps, self.jobs))
        telemetry.watch(lambda: of_state(self._workspace, self.ownership))
        telemetry.watch(lambda: of_stores(self._workspace))
        telemetry.watch(self.watching.readings)

    def stop(self, for_s: float = STOP_S) -> None:
        """Ends the loops and their children in good order, and at last lets others own what this server did.

        The API must still answer meanwhile: taps ship what they saw last. What isn't ended after so long is left to end by
        itself: a child does with this process.
        """
        self._stopping.set()
        until_s = time.monotonic() + for_s
        for loop in (self._recovering, *self._moving):
            loop.stop()
        for loop in (self._recovering, *self._moving):
            if not loop.join(max(0.0, until_s - time.monotonic() - TAPS_STOP_S)):
                self._log.warning("still at work; it is left", loop=loop.name)
        self.watching.end()
        ending = [
            threading.Thread(target=self.jobs.end, args=(max(1.0, min(5.0, until_s - time.monotonic())),), daemon=True),
            threading.Thread(target=self.taps.end, args=(max(1.0, until_s - time.monotonic()),), daemon=True),
        ]
        for each in ending:
            each.start()
        for each in ending:
            each.join(max(0.0, until_s + 2.0 - time.monotonic()))
        self._owning.stop()
        self._owning.join(2 * BEAT_S)
        self.ownership.end()
        self.insiders.dismiss_all()

    def kill(self) -> None:
        """Ends the children at once. The loops are left as they are."""
        self.jobs.kill()
        self.taps.kill()

    def _once_recovered(self, turn: Callable[[], None]) -> Callable[[], float | None]:
        def work() -> float | None:
            if not self._recovered.is_set():
                return 0.1
            turn()
            return None

        return work

    def _recover(self) -> float | None:
        first = not self._recovered.is_set()
        alone = self._workspace.state.on_one_host
        patience_s = 0.0 if first and alone else DELETING_S
        for told in recover(self._workspace, self._now(), self.ownership.owns, patience_s):
            self._log.warning("recovered", what=told)
        self._recovered.set()
        return None

    def _cut(self) -> None:
        """The loops of taps and jobs do it, too, but not while the store keeps them waiting, or fails them."""
        self.taps.cut()
        self.jobs.cut()

    def _note_silent(self) -> None:
        for told in taps.note_silent(self._workspace, self._now(), self.ownership.owns):
            self._log.warning("a tap is silent", what=told)

    def _upkeep(self) -> None:
        upkeep.maintain(self._workspace, self._now())
        uploads.sweep(self._workspace, self._now() - round(UPLOADS_S * NANOSECONDS))
