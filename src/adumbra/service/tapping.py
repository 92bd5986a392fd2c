"""Taps: a source on this host observed for a network that is kept elsewhere. Captures, meters and emulates here; ships metrics.

What is measured is on this host's disk first, and sent when a server takes it: in order, and none twice.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from adumbra.http_asking import HttpAccess
from adumbra.meter.flow_records import FlowMeterSettings
from adumbra.metering import Metering, Watch
from adumbra.schema.errors import AdumbraError, InputError, NotFoundError, StoreError, StoreUnavailableError
from adumbra.schema.jobs import SourceState
from adumbra.schema.records import NANOSECONDS, Accounts, MetricBatch
from adumbra.schema.sources import CollectorSource, SourceSpec, parse_source
from adumbra.service.following import (
    ObserveOptions,
    Progress,
    Vigil,
    emulated_vms,
    emulator,
    follow,
    shadow_of,
    warm_up,
    watch_of,
)
from adumbra.service.networks import Network
from adumbra.service.observations import Observation
from adumbra.service.source_metering import FILES, metered, metered_beside, takes_hands
from adumbra.service.tap_control import Beats, Control, Following, Introduction, from_text
from adumbra.service.tap_home import TapHome
from adumbra.shadow import Shadow
from adumbra.store.http_access import NotLetInError
from adumbra.store.outbox import Outbox, Patience
from adumbra.store.protocol import MetricStore
from adumbra.store.served import ServedConfig, ServedStore
from adumbra.store.served_access import Servers
from adumbra.store.spool import Spool
from adumbra.store.urls import StoreAddress, open_remote
from adumbra.worker import ANY_SPEC
from adumbra.workers import Hands, Running

HEARTBEAT_S, WAIT_S, LOOK_S = 2.0, 0.25, 0.1
WRITE_EVERY_S = 0.2
_READY_S, _CLOSED_S, _LONGEST_STEP_S = 120.0, 15.0, 600.0
_MOST_LEAVING = 4
_FOREVER_NS = 2**62
_PATIENCE = Patience(first_s=0.25, longest_s=15.0, idle_s=5.0)


@dataclass(frozen=True, slots=True)
class TapJob:
    """What is to be tapped, and where it goes. servers: over one state, tried in turn; or spec and store, without a server.

    home: the folder that holds the tap's own; host: what this host is called; number: of the source that a server's
    supervisor has this process observe. spool_bytes: what waits on disk at most; drain_s: how long is waited for it at the end.
    """

    network: str
    source: str
    home: Path
    servers: tuple[HttpAccess, ...] = ()
    following: Following | None = None
    store: StoreAddress | None = None
    options: ObserveOptions = field(default_factory=ObserveOptions)
    host: str = ""
    number: int | None = None
    spool_bytes: int = 10**9
    drain_s: float = 30.0
    heartbeat_s: float = HEARTBEAT_S
    say: Callable[[str], None] = print


def tap(job: TapJob, now: Callable[[], int], progress: Progress = lambda *_: None) -> Observation:
    """Follows a source until it ends, or is to; ships its metrics meanwhile. `now` must be a function that other processes can
    import. Raises InputError, SourceError, StoreError; what was measured until then waits on disk for the next time.
    """
    source = parse_source(job.source)
    with TapHome(job.home, job.network, str(source), job.number) as home:
        if job.store is not None and job.following is not None:
            with _outbox(job, home, open_remote(job.store), job.store.name) as outbox:
                return _Tap(job, source, now, outbox).run(job.following, progress)
        return _for_servers(job, source, home, now, progress)


def _for_servers(job: TapJob, source: SourceSpec, home: TapHome, now: Callable[[], int], progress: Progress) -> Observation:
    tap_says = Introduction(
        job.network, str(source), job.options.layer.value, job.options.workers, job.host, job.number
    )  # fmt: skip
    with ExitStack() as stack:
        servers = stack.enter_context(Servers(job.servers))
        control = Control(servers, tap_says, home)
        ready = Readiness(job, source, stack)
        following = _first(job, control, ready)
        if following is None:
            raise InputError(f"there was no network {job.network} until the tap was to end", "create it, then tap for it")
        store = ServedStore(ServedConfig(job.servers, control.number, home.instance))
        outbox = stack.enter_context(_outbox(job, home, store, f"the server {job.servers[0].url}"))
        tap_ = _Tap(job, source, now, outbox, store)
        tap_.hands = ready.hands
        return tap_.run_with(control, following, progress)


def _outbox(job: TapJob, home: TapHome, store: Any, name: str) -> Outbox:
    return Outbox(name, store, Spool(home.spool, job.spool_bytes, save_every=16), patience=_PATIENCE, say=job.say)


class Readiness:
    """What a tap has begun while it waits: the processes that will capture, and all compiled code. hands: None before that."""

    def __init__(self, job: TapJob, source: SourceSpec, stack: ExitStack) -> None:
        self._job, self._source, self._stack = job, source, stack
        self.hands: Hands | None = None
        self._is_ready = isinstance(source, FILES)  # which wait for nobody

    def get_ready(self) -> None:
        """Does so, once."""
        if self._is_ready:
            return
        self._is_ready = True
        if takes_hands(self._source):
            self.hands = self._stack.enter_context(Hands(self._job.options.workers, warm=True))
        warm_up(from_text(ANY_SPEC))
        if self.hands is not None:
            self.hands.wait_until_warm(self._job.options.stop)
        self._job.say("the tap is ready to begin")


def _first(job: TapJob, control: Control, ready: Readiness) -> Following | None:
    """What is to be followed: as a server says; as it was said last, where none answers; once the network is there, where it
    isn't yet. None where the tap is to end before. Raises StoreError where no server lets us in.
    """
    said = ""
    while not job.options.stop():
        try:
            found = control.followed()
            control.register()
        except NotLetInError:
            raise
        except NotFoundError as error:
            if job.number is not None:
                raise
            what = f"{error.what}; the tap waits for it"
        except StoreUnavailableError as error:
            known = control.remembered()
            if known is not None:
                job.say(f"{error}; the tap goes on as it was, and what it measures waits in {job.home}")
                return known
            what = f"{error}; the tap waits"
        else:
            return found
        if what != said:
            job.say(what)
            said = what
        ready.get_ready()
        time.sleep(WAIT_S)
    return None


class _Window:
    """Puts what a run measured of a stretch of time into the outbox. from_ns: none before; until_ns: none from then on."""

    def __init__(self, outbox: MetricStore, from_ns: int = 0) -> None:
        self._outbox = outbox
        self.from_ns, self.until_ns = from_ns, _FOREVER_NS
        self.passed_ns = 0

    def write(self, batch: MetricBatch) -> int:
        kept = (batch.start_ns >= self.from_ns) & (batch.start_ns < self.until_ns)
        if len(batch):
            self.passed_ns = int(batch.start_ns[-1]) + round(batch.interval_s * NANOSECONDS)
        if not kept.all():
            batch = replace(
                batch, start_ns=batch.start_ns[kept], one_sided=batch.one_sided[kept],
                columns={name: np.asarray(values)[kept] for name, values in batch.columns.items()},
            )  # fmt: skip
        return self._outbox.write(batch) if len(batch) else 0

    def look_after(self) -> None:
        """Nothing: what keeps it looks after it."""

    def release(self) -> None:
        """Nothing is held."""


class _Run:
    """A source that is followed by a spec, in a thread of its own, until it ends or is told to. beside: what meters the same
    source, which goes on, by another spec."""

    def __init__(
        self, tap_: _Tap, network: Network, window: _Window, progress: Progress, beside: Metering | None = None
    ) -> None:  # fmt: skip
        self._tap, self.network, self.window, self._progress, self._beside = tap_, network, window, progress, beside
        self.interval_ns = network.spec.interval_ns
        self.ready, self.ended, self._stop = threading.Event(), threading.Event(), threading.Event()
        self.metering: Metering | None = None
        self.error: BaseException | None = None
        self.leaves_ns = _FOREVER_NS
        self.written: Mapping[str, Any] = {}
        self.shadow: Shadow = tap_.shadow(network)
        self._thread = threading.Thread(target=self._work, name=f"tap of {tap_.job.source}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def join(self) -> None:
        self._thread.join()

    def follow_by(self, network: Network) -> None:
        """From the next interval on, the emulated VMs are those of another calibration."""
        self.network = network
        self.shadow.emulator = emulator(emulated_vms(network))

    def accounts(self) -> Accounts | None:
        return self.metering.accounts() if self.metering is not None else None

    def _work(self) -> None:
        tap_, options = self._tap, self._tap.job.options
        vigil = Vigil.over(tap_.source, replace(options, stop=self._stop.is_set, write_every_s=WRITE_EVERY_S), tap_.now)
        try:
            running = Running(tap_.now, vigil.is_over, self.ready.set)
            self.metering = self._metering(watch_of(self.network, options.layer), running)
            self.written = follow(self.shadow, self.metering, vigil, self.window, self._progress)
        except BaseException as error:  # noqa: BLE001 raised again by whoever waits for it
            self.error = error
        finally:
            self.ended.set()
            tap_.wake.set()

    def _metering(self, watch: Watch, running: Running) -> Metering:
        if self._beside is not None:
            return metered_beside(self._beside, watch, running)
        tap_, options = self._tap, self._tap.job.options
        return tap_.opened.enter_context(metered(watch, tap_.source, running, options.workers, tap_.hands))


class _Tap:
    """A tap while it runs."""

    def __init__(
        self, job: TapJob, source: SourceSpec, now: Callable[[], int], outbox: Outbox, served: ServedStore | None = None
    ) -> None:
        self.job, self.source, self.now, self._outbox, self._served = job, source, now, outbox, served
        self.hands: Hands | None = None
        self.opened = ExitStack()
        """What the source holds open: whoever follows it after another spec has the same."""
        self.wake = threading.Event()
        self._run: _Run | None = None
        self._leaving: list[_Run] = []
        self._ready_said = False
        self._beats: Beats | None = None

    def shadow(self, network: Network) -> Shadow:
        """A shadow of the network, knowing what was measured before where that can be asked."""
        try:
            return shadow_of(network, self.source, _Measured(self._outbox))
        except StoreError:
            return shadow_of(network, self.source, None)

    def run_with(self, control: Control, following: Following, progress: Progress) -> Observation:
        """Follows the source, and says how it goes."""
        with Beats(control, self.job.heartbeat_s, self._status, self.job.say, self._registered) as beats:
            self._beats, beats.versions = beats, following.versions
            try:
                observation = self.run(following, progress)
            except BaseException as error:
                self._end(beats, control, str(error) or "it was stopped", failed=not isinstance(error, KeyboardInterrupt))
                raise
        if beats.over:
            self.job.say(beats.over)
        if beats.failed is not None and not isinstance(beats.failed, NotFoundError):
            raise beats.failed
        ended = observation.accounts.losses.ended
        self._end(beats, control, ended, failed=bool(ended) and not isinstance(self.source, FILES))
        return observation

    def run(self, following: Following, progress: Progress) -> Observation:
        """Follows the source to its end. Raises what that does."""
        with self.opened:
            run = self._to_its_end(following, progress)
        if run.error is not None:
            raise run.error
        assert run.metering is not None
        observation = Observation(
            self.job.network, self.job.source, run.metering.accounts(), notes=run.metering.notes(), **run.written
        )
        return replace(observation, notes=(*observation.notes, *self._sent(progress)))

    def _to_its_end(self, following: Following, progress: Progress) -> _Run:
        """The run that followed the source last, once it and all others have ended."""
        run = self._started(following.network, progress)
        try:
            if not isinstance(self.source, FILES):
                warm_up(following.network)  # while the source is opened
            while not run.ended.is_set():
                self.wake.wait(LOOK_S)
                self.wake.clear()
                if run.ready.is_set() and not self._ready_said:
                    self._ready_said = True
                    self.job.options.ready()
                if self.job.options.stop() or (self._beats is not None and self._beats.over):
                    run.stop()
                self._take_leave()
                renewal = self._beats.renewal() if self._beats is not None else None
                if renewal is not None and not run.ended.is_set():
                    run = self._renewed(run, renewal.network, progress)
        finally:
            for each in (*self._leaving, run):
                each.stop()
            for each in (*self._leaving, run):
                each.join()
        return run

    def _started(
        self, network: Network, progress: Progress, from_ns: int = 0, beside: Metering | None = None
    ) -> _Run:  # fmt: skip
        run = _Run(self, network, _Window(self._outbox, from_ns), progress, beside)
        self._run = run
        run.start()
        return run

    def _renewed(self, run: _Run, network: Network, progress: Progress) -> _Run:
        """The run that goes on by another spec or calibration, from the border of an interval on."""
        if network.spec == run.network.spec:
            run.follow_by(network)
            self.job.say(f"the calibration of {network.name} changed: its VMs are emulated by it from now on")
            return run
        self.job.say(f"the spec of {network.name} changed: its shadow begins anew")
        if isinstance(self.source, FILES):
            run.window.until_ns = 0  # all of it follows again
            run.stop()
            run.join()
            self.opened.close()
            return self._started(network, progress)
        return self._handed_over(run, network, progress)

    def _handed_over(self, run: _Run, network: Network, progress: Progress) -> _Run:
        """Two follow the source at once until an interval's border: what ends before is the one's, the rest the other's."""
        self._until_ready(run)
        if run.ended.is_set():
            return run
        following = self._started(network, progress, _FOREVER_NS, run.metering)
        self._until_ready(following)
        if following.ended.is_set():
            run.stop()
            run.join()
            return following
        step_ns = math.lcm(run.interval_ns, following.interval_ns)
        cut = self._border(step_ns if step_ns <= _LONGEST_STEP_S * NANOSECONDS else following.interval_ns)
        run.window.until_ns = following.window.from_ns = cut
        run.leaves_ns = cut + round(self._late_s * NANOSECONDS)
        self._leaving.append(run)
        return following

    @property
    def _late_s(self) -> float:
        """How long after an interval's end something may still come for it."""
        return _CLOSED_S + (FlowMeterSettings().lateness_s or 0.0) * isinstance(self.source, CollectorSource)

    def _border(self, interval_ns: int) -> int:
        """The next time but one at which an interval begins: what is open now, and was opened now, is not cut."""
        return (self.now() // interval_ns + 2) * interval_ns

    def _until_ready(self, run: _Run) -> None:
        until = time.monotonic() + _READY_S
        while not run.ready.is_set() and not run.ended.is_set() and time.monotonic() < until:
            if self.job.options.stop():
                run.stop()
            time.sleep(LOOK_S)

    def _take_leave(self) -> None:
        """Ends those that follow an older spec, once all that they saw before theirs ended is written."""
        now_ns = self.now()
        for run in self._leaving:
            if run.window.passed_ns > run.window.until_ns or now_ns >= run.leaves_ns:
                run.stop()
        for run in self._leaving[: max(0, len(self._leaving) - _MOST_LEAVING)]:  # another spec again and again
            run.stop()
        self._leaving = [run for run in self._leaving if not run.ended.is_set()]

    def _registered(self, number: int) -> None:
        if self._served is not None and self._served.config.source != number:
            self._served.config = replace(self._served.config, source=number)

    def _status(self) -> tuple[Mapping[str, Any] | None, str]:
        """What is to be said of the tap: its accounts, and what is wrong."""
        accounts = self._run.accounts() if self._run is not None else None
        status = self._outbox.status()
        told = [f"{status.dropped:,} batches were dropped, as the tap's spool was full"] if status.dropped else []
        told += [f"{status.refused:,} batches were refused by the server"] if status.refused else []
        if accounts is None:
            return None, "; ".join(told)
        plain = {**asdict(accounts), "waiting": status.waiting, "duplicates": self._duplicates}
        return plain, "; ".join(told)

    @property
    def _duplicates(self) -> int:
        return self._served.duplicates if self._served is not None else 0

    def _sent(self, progress: Progress) -> tuple[str, ...]:
        """Waits a while for what was measured to be sent. What is to be said of the rest."""

        def tell(waiting: int) -> None:
            progress(None, f"{waiting:,} batches wait to be sent")

        left = self._outbox.flush(self.job.drain_s, tell)
        told = []
        if left:
            why = self._outbox.status().trouble
            told.append(f"{left:,} batches wait to be sent{f' ({why})' if why else ''}: the next start of this tap goes on")
        if self._outbox.status().refused:
            told.append(f"{self._outbox.status().refused:,} batches were refused, and are lost")
        if self._duplicates:
            told.append(f"{self._duplicates:,} rows were left out, as another tap had told of them")
        return tuple(told)

    def _end(self, beats: Beats, control: Control, trouble: str, *, failed: bool) -> None:
        """Says how the tap ended, where a server hears it. What a failure means is decided by a supervisor that began it."""
        if beats.stopped or beats.failed is not None or (failed and self.job.number is not None):
            return
        ended = SourceState.FAILED if failed else SourceState.DONE
        if not failed and self.job.options.stop():
            ended = SourceState.STOPPED if self.job.number is None else SourceState.WAITING
        if ended is SourceState.DONE and self._outbox.spool.waiting().records:
            return  # the next start of this tap goes on with it
        accounts, own = self._status()
        try:
            control.beat(accounts, "; ".join(part for part in (trouble, own) if part)[:2000], ended)
        except AdumbraError as error:
            self.job.say(f"the server could not be told that the tap ended: {error}")


class _Measured:
    """What is stored of the network, for a shadow that begins."""

    def __init__(self, metrics: MetricStore) -> None:
        self.metrics = metrics
