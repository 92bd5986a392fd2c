"""One worker's life: it opens a source, gives up every privilege, and meters it for whoever began it, who says by which watch.

The same source may be metered by two watches for a while, so that none of its traffic is missed when one takes the other's
place. Adds nothing up, stores nothing.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from adumbra import handing
from adumbra.decode.share import Share
from adumbra.meter.tally import Tally
from adumbra.metering import PacketMetering, Watch
from adumbra.schema.errors import AdumbraError
from adumbra.schema.records import Accounts, Frames
from adumbra.schema.spec import expand_vms, parse_spec
from adumbra.tap import live as live_taps
from adumbra.tap import privileges
from adumbra.tap.bpf import Program
from adumbra.tap.live import LiveTap
from adumbra.tap.protocol import Source
from adumbra.tap.replay import PcapReplay

REPORT_EVERY_S = 0.2
WARM = "warm"
"""What a worker says once it has loaded all that it will need."""
NOTHING = Accounts(0, {}, 0, 0, 0, 0, 0, 0, 0)
ANY_SPEC = """
name: any
cidrs: [192.0.2.0/24]
subnets: [{name: any, cidr: 192.0.2.0/24}]
vms: [{name: any, subnet: any, addresses: [192.0.2.1]}]
"""
"""A network that stands for those that aren't known yet."""


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
class Report:
    """What a worker says now and then: what it counted since, how far it is, and how it ended, if it has."""

    tallies: tuple[Tally, ...]
    closed_to_ns: int
    accounts: Accounts
    progress: float | None
    notes: tuple[str, ...] = ()
    ended: bool = False
    error: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """Meter by this watch too, and report to this pipe. filter: what a live interface's socket is to take from now on."""

    number: int
    watch: Watch
    pipe: Connection
    filter: Program | None = None


@dataclass(frozen=True, slots=True)
class End:
    """Meter by that watch no more. The last one ends the source, of which all that was taken is metered."""

    number: int
    filter: Program | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is for: of a source all, or a share."""

    tap: Tap
    share: Share | None
    now: Callable[[], int]
    first: Begin


def live(line: socket.socket, *, warm: bool) -> None:
    """Waits for a task, and does it. warm: it holds no privilege while it waits, and has loaded all compiled code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a ^C reaches all processes; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if warm:
        privileges.drop_all()
        warm_up()
    try:
        if warm:
            handing.send(line, WARM)
        task = handing.receive(line)
    except (EOFError, OSError):
        return  # there is nothing to do any more
    assert isinstance(task, Task)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody listens any more
        try:
            _Work(task, line).run()
        except AdumbraError as error:
            task.first.pipe.send(Report((), 0, NOTHING, None, ended=True, error=(error.what, error.mend)))


def warm_up() -> None:
    """Loads all compiled code that packets pass, by a network of no one."""
    spec = parse_spec(ANY_SPEC, "any")
    PacketMetering(Watch(spec, expand_vms(spec)), PcapReplay(Path())).warm_up()  # a source that is never opened
    live_taps.warm_up()


class _Work:
    """A source, and those that meter it."""

    def __init__(self, task: Task, line: socket.socket) -> None:
        self._task, self._line = task, line
        self._parts: dict[int, _Part] = {}
        self._stopping = False
        self._said = select.poll()
        self._said.register(line, select.POLLIN)

    def run(self) -> None:
        """Meters to the end of the source, or until told to stop. Raises what the source does."""
        task = self._task
        with task.tap.open(Running(task.now, lambda: self._stopping)) as source:
            self._begin(task.first, source).metering.warm_up()
            privileges.drop_all()
            try:
                for batch in source:
                    assert isinstance(batch, Frames), "workers meter sources of frames"
                    for part in self._parts.values():
                        part.take(batch)
                    self._obey(source)
                for part in self._parts.values():
                    part.finish()
            except AdumbraError as error:
                for number, part in self._parts.items():
                    if number != task.first.number:  # to which whoever called says it
                        part.fail(error)
                raise

    def _begin(self, begin: Begin, source: Source) -> _Part:
        part = _Part(PacketMetering(begin.watch, source, self._task.share), begin.pipe)
        self._parts[begin.number] = part
        return part

    def _obey(self, source: Source) -> None:
        """Does what was asked for meanwhile."""
        while not self._stopping and self._said.poll(0):
            try:
                order = handing.receive(self._line)
            except (EOFError, OSError):  # whoever asked for it is gone
                self._stopping = True
                return
            if isinstance(order, Begin):
                self._fit(source, order.filter)
                self._begin(order, source).metering.joins()
            elif order.number in self._parts and len(self._parts) == 1:
                self._stopping = True
            elif order.number in self._parts:
                self._parts.pop(order.number).finish()
                self._fit(source, order.filter)

    @staticmethod
    def _fit(source: Source, program: Program | None) -> None:
        if program is not None and isinstance(source, LiveTap):
            source.refit(program)


class _Part:
    """The source metered by one watch, and what is said of it: at once where intervals closed, else now and then."""

    def __init__(self, metering: PacketMetering, pipe: Connection) -> None:
        self.metering, self._pipe = metering, pipe
        self._tallies: list[Tally] = []
        self._last_s: float | None = None

    def take(self, frames: Frames) -> None:
        self._tallies += self.metering.take(frames)
        now_s = time.monotonic()
        if self._tallies or self._last_s is None or now_s - self._last_s >= REPORT_EVERY_S:
            self._last_s = now_s
            self._say()

    def finish(self) -> None:
        self._tallies += self.metering.finish()
        self._say(ended=True)

    def fail(self, error: AdumbraError) -> None:
        self._pipe.send(Report((), 0, NOTHING, None, ended=True, error=(error.what, error.mend)))

    def _say(self, *, ended: bool = False) -> None:
        metering, tallies = self.metering, tuple(self._tallies)
        self._tallies.clear()
        self._pipe.send(
            Report(tallies, metering.closed_to_ns, metering.accounts(), metering.progress(), metering.notes(), ended)
        )  # fmt: skip
