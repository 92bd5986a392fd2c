"""The live networks: their machines' counters are read every few seconds, stored beside the shadow's rows, and learned from.

Each network that is active and this server's has its provider's connection, opened when it is first read. One whose provider
fails, or hangs, keeps no other from being read. What is remembered between two readings is in memory: after a restart an
interval or two are a gap.
"""

from __future__ import annotations

import math
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from adumbra.daemon.learning import BY, last_failures
from adumbra.daemon.loops import pause_s
from adumbra.daemon.ownership import Ownership
from adumbra.provision.protocol import Provider
from adumbra.scale.readings import LONGEST_S, Follower
from adumbra.schema.errors import AdumbraError, ConflictError, NotFoundError
from adumbra.schema.jobs import JobKind
from adumbra.schema.own_metrics import Reading
from adumbra.schema.records import NANOSECONDS, Origin
from adumbra.schema.state import NetworkQuery, NetworkRecord, NetworkState
from adumbra.service import handover, live, networks
from adumbra.service.live_usage import LIVE
from adumbra.service.providers import active_provider, provider_of
from adumbra.service.workspace import Workspace

AT_ONCE = 8
"""Networks that are read at the same time; a provider that hangs has one of these places until it answers."""
PORTS_S = 30.0
"""How often is looked whether each machine's port is mirrored still."""
QUIET_S = 60.0
"""How long a provider that tells of no machine isn't asked again."""
LEARN_S = 60.0
"""How often is looked whether there is enough to learn from."""
_MISSED = 3
"""So many readings in a row may be missed before a machine is begun with anew."""
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Watch:
    """every_s: how often live machines are read, inf: never; calibrate_s: how much that is new must be there for the demand
    model to be calibrated by it, inf: never by itself."""

    every_s: float = 5.0
    calibrate_s: float = 3_600.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a network's live readings. live: what is stored of them, None: nothing; shadow_end_ns: up to when its
    shadow saw traffic; learned_end_ns: up to when the calibration has learned, 0: there is none; failed_ns: when the last
    calibration ended, if in vain; busy: the kinds of its open jobs."""

    live: tuple[int, int] | None
    shadow_end_ns: int
    learned_end_ns: int
    failed_ns: int | None
    busy: frozenset[JobKind] = frozenset()


def is_due(measured: Measured, watch: Watch, now_ns: int) -> bool:
    """Whether the demand model is to be calibrated now. Pure."""
    if measured.live is None or math.isinf(watch.calibrate_s):
        return False
    if measured.busy & {JobKind.TRAIN, JobKind.PROFILE, JobKind.CALIBRATE}:
        return False
    # In time to come, it was noted by a clock that has gone back since.
    if measured.failed_ns is not None and 0 <= now_ns - measured.failed_ns < watch.calibrate_s * NANOSECONDS:
        return False
    begin_ns = max(measured.live[0], measured.learned_end_ns)
    return min(measured.live[1], measured.shadow_end_ns) - begin_ns >= watch.calibrate_s * NANOSECONDS


@dataclass(slots=True)
class _Watched:
    """A network that is watched. mark: what it was when this began; provider: opened, None where it isn't; next_s: when it is
    read again, ports_s: when its ports are looked at, both by the monotonic clock; busy: a thread is at it, and everything else
    is that thread's; gone: to be closed by it.
    """

    mark: tuple[int, int, int]
    name: str
    provider_name: str
    follower: Follower
    provider: Provider | None = None
    next_s: float = 0.0
    ports_s: float = 0.0
    in_a_row: int = 0
    failures: int = 0
    machines: int = 0
    trouble: str = ""
    busy: bool = False
    gone: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> None:
        provider, self.provider = self.provider, None
        if provider is not None:
            with suppress(Exception):  # it may be what failed
                provider.__exit__(None, None, None)


class Watching:
    """The loop. opened: gives the provider of a name for a network, yet to be opened by `with`."""

    def __init__(  # noqa: PLR0917 (as the other loops, and the provider)
        self, workspace: Workspace, now: Callable[[], int], ownership: Ownership, watch: Watch, wake: Callable[[], None],
        opened: Callable[[Workspace, str, str], Provider] = provider_of,
    ) -> None:  # fmt: skip
        self._workspace, self._now, self._owned, self._watch, self._wake = workspace, now, ownership, watch, wake
        self._opened = opened
        self._watched: dict[str, _Watched] = {}
        self._threads: list[threading.Thread] = []
        self._learned_s = -math.inf
        self._log = structlog.get_logger(__name__).bind(loop="watching")

    def turn(self) -> None:
        """Reads each network that is due once, and queues a calibration where there is enough that is new."""
        if math.isinf(self._watch.every_s):
            return
        active = self._active()
        self._choose(active)
        self._read_all()
        if time.monotonic() - self._learned_s >= LEARN_S:
            self._learned_s = time.monotonic()
            self._learn()

    def end(self) -> None:
        """Closes the connections; one that hangs is left."""
        for name in list(self._watched):
            self._drop(name)

    def readings(self) -> Iterator[Reading]:
        """What is told of the watching whenever somebody scrapes."""
        for name, each in list(self._watched.items()):
            tally, told = each.follower.tally, (name,)
            yield Reading("adumbra_live_machines", each.machines, told)
            yield Reading("adumbra_live_up", float(not each.in_a_row), told)
            yield Reading("adumbra_live_rows_total", tally.rows, told)
            yield Reading("adumbra_live_failures_total", each.failures, told)
            for reason in ("anew", "late", "odd", "strangers"):
                yield Reading("adumbra_live_left_out_total", getattr(tally, reason), (name, reason))

    def _active(self) -> list[NetworkRecord]:
        found: list[NetworkRecord] = []
        page: tuple[NetworkRecord, ...] = ()
        while not found or len(page) == _PAGE:
            after = page[-1].name if page else None
            page = self._workspace.state.networks_of(NetworkQuery(None, NetworkState.ACTIVE, after, _PAGE))
            found += page
            if not page:
                break
        return [each for each in found if self._owned.owns(each.name)]

    def _choose(self, active: list[NetworkRecord]) -> None:
        """Begins to watch what is active now, and lets go of the rest."""
        marks = {each.name: (each.id, each.version, each.updated_ns) for each in active}
        before = dict(self._watched)
        for name, each in before.items():
            if marks.get(name) != each.mark:
                self._drop(name)
        for name, mark in marks.items():
            if name in self._watched:
                continue
            try:
                self._begin(name, mark, before.get(name))
            except NotFoundError:
                continue  # deleted meanwhile

    def _begin(self, name: str, mark: tuple[int, int, int], before: _Watched | None) -> None:
        provider = active_provider(self._workspace, name)
        if provider is None:
            return
        longest_s = max(LONGEST_S, _MISSED * self._watch.every_s)
        follower = live.follower_of(networks.get(self._workspace, name), provider, longest_s)
        watched = _Watched(mark, name, provider, follower)
        if before is not None and before.mark[0] == mark[0]:  # what is counted goes on
            follower.tally, watched.failures = before.follower.tally, before.failures
        self._watched[name] = watched

    def _drop(self, name: str) -> None:
        watched = self._watched.pop(name)
        with watched.lock:
            watched.gone = True
            if not watched.busy:
                watched.close()

    def _read_all(self) -> None:
        """Reads what is due, some at once. Waits no longer than until the next turn for one that hangs."""
        now_s, waiting = time.monotonic(), queue.SimpleQueue[_Watched]()
        due = [each for each in self._watched.values() if not each.busy and now_s >= each.next_s]
        for each in due:
            each.busy = True
            waiting.put(each)
        self._threads = [each for each in self._threads if each.is_alive()]
        begun = [
            threading.Thread(target=self._work, args=(waiting,), name="watching", daemon=True)
            for _ in range(min(AT_ONCE - len(self._threads), len(due)))
        ]
        self._threads += begun
        for thread in begun:
            thread.start()
        for thread in begun:
            thread.join(max(0.0, now_s + self._watch.every_s - time.monotonic()))
        with suppress(queue.Empty):
            while True:  # what no thread came to
                waiting.get_nowait().busy = False

    def _work(self, waiting: queue.SimpleQueue[_Watched]) -> None:
        with suppress(queue.Empty):
            while True:
                watched = waiting.get_nowait()
                try:
                    self._read(watched)
                finally:
                    with watched.lock:
                        watched.busy = False
                        if watched.gone:
                            watched.close()

    def _read(self, watched: _Watched) -> None:
        """Reads a network's machines once. What fails is told, and tried again ever less often."""
        try:
            if watched.provider is None:
                provider = self._opened(self._workspace, watched.provider_name, watched.name)
                provider.__enter__()
                watched.provider = provider
            machines = live.read_once(self._workspace, watched.provider, watched.follower)
        except Exception as error:  # noqa: BLE001 - whatever it is: other networks are read
            watched.close()
            watched.failures += 1
            watched.in_a_row += 1
            watched.next_s = time.monotonic() + pause_s(watched.in_a_row)
            self._complain(watched, error)
            return
        self._follow_ports(watched)
        if watched.in_a_row:
            self._log.warning("is read again", network=watched.name, failures=watched.in_a_row)
        watched.in_a_row, watched.trouble, watched.machines = 0, "", machines or 0
        if machines is None:  # it can't tell, or nothing runs: a connection isn't held for that
            watched.close()
            watched.next_s = time.monotonic() + QUIET_S

    def _follow_ports(self, watched: _Watched) -> None:
        """Mirrors the ports that came back, as after a machine's restart. What fails here stops no reading."""
        if watched.provider is None or time.monotonic() < watched.ports_s:
            return
        watched.ports_s = time.monotonic() + PORTS_S
        try:
            if handover.is_handed_over(self._workspace, watched.name):
                ports, rng = watched.provider.ports(watched.name), random.Random(self._now())  # noqa: S311  names and marks
                handover.hand_over(self._workspace, watched.name, ports, self._now, rng)
        except AdumbraError as error:
            self._log.warning("its ports can't be mirrored", network=watched.name, trouble=str(error))

    def _complain(self, watched: _Watched, error: Exception) -> None:
        trouble = " ".join(str(error).split())[:500] or type(error).__name__
        if trouble != watched.trouble:  # the same again and again says nothing new
            known = isinstance(error, AdumbraError)
            log = self._log.warning if known else self._log.error
            log("can't be read", network=watched.name, trouble=trouble, exc_info=None if known else error)
        watched.trouble = trouble

    def _learn(self) -> None:
        if math.isinf(self._watch.calibrate_s):
            return
        busy: dict[str, set[JobKind]] = {}
        for job in self._workspace.state.jobs.open():
            busy.setdefault(job.network, set()).add(job.kind)
        for name in list(self._watched):
            try:
                if is_due(self._measured(name, frozenset(busy.get(name, ()))), self._watch, self._now()):
                    self._queue(name)
            except (NotFoundError, ConflictError):
                continue  # deleted meanwhile; or too many jobs wait: later

    def _measured(self, name: str, busy: frozenset[JobKind]) -> Measured:
        state, metrics = self._workspace.state, self._workspace.metrics
        known, shadow = state.calibration(name), metrics.span(name)
        learned_end_ns = int(known.calibration["end_ns"]) if known is not None and known.calibration["vms"] else 0
        failed_ns = last_failures(state.jobs.of(name)).get(JobKind.CALIBRATE)
        return Measured(metrics.span(name, Origin.LIVE), shadow[1] if shadow else 0, learned_end_ns, failed_ns, busy)

    def _queue(self, name: str) -> None:
        asked: dict[str, Any] = {
            "usage": LIVE, "from_traffic": False, "update": live.goes_on(self._workspace, name), "reset": False,
            "train_share": None, "measured_on": None, "called": "",
        }  # fmt: skip
        job = self._workspace.state.jobs.add(name, JobKind.CALIBRATE, asked, BY, self._now())
        self._log.info("queued", network=name, kind=JobKind.CALIBRATE.value, job=job.id, why="there are new live readings")
        self._wake()
