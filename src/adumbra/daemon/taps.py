"""Looks after the taps of this server: one process for each source that is to be observed here, begun again when it dies.

Decides by what is recorded of the sources, so that another server goes on where this one ends. Captures nothing itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from adumbra.daemon.children import Begun, Child, end_all
from adumbra.daemon.loops import LONGEST_PAUSE_S, pause_s
from adumbra.daemon.ownership import Ownership
from adumbra.schema.errors import AdumbraError
from adumbra.schema.jobs import Place, SourceRecord, SourceState
from adumbra.schema.records import NANOSECONDS
from adumbra.service.workspace import Workspace
from adumbra.store.processes import has_died, is_here

AT_ONCE = 256
"""Taps of one server."""
TURN_S = 1.0
STEADY_S = 60.0
"""A tap that ran for so long has begun well: when it dies after that, it is begun again soon."""
STOP_S = 15.0
"""How long a tap has to ship what it saw last."""
LEFT_S = 20.0
"""A tap of the server before that is still there after so long doesn't count."""
INPUT_IS_WRONG = 2
"""The exit status of a command whose input is wrong: doing it again won't help."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a tap ended. status: its exit status; ran_s: how long it ran; in_a_row: how often it had ended too soon before; said:
    its last words; asked: whether it was asked to end."""

    status: int
    ran_s: float
    in_a_row: int
    said: str
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Next:
    """What becomes of a source whose tap has ended. wait_s: how long until it is begun again; message: for its event."""

    state: SourceState
    message: str
    trouble: str = ""
    in_a_row: int = 0
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. begin: sources; end: the numbers of those whose taps are to end in good order; cut: at once."""

    begin: tuple[SourceRecord, ...]
    end: tuple[int, ...]
    cut: tuple[int, ...]


def plan(
    wanted: Sequence[SourceRecord], running: Mapping[int, str], owned: Callable[[str], bool], host: str, now_ns: int
) -> Plan:
    """What is to begin and what to end, given the sources that are to be observed by servers, and the taps that run: source
    number -> network. Pure."""
    open_sources = {source.id for source in wanted}
    cut = tuple(number for number, network in running.items() if not owned(network))
    end = tuple(number for number in running if number not in open_sources and number not in cut)
    due = [
        source
        for source in wanted
        if source.id not in running
        and owned(source.network)
        and source.host in {"", host}
        and (source.state is SourceState.RUNNING or _is_time(source.next_ns, now_ns))
    ]
    return Plan(tuple(due[: max(0, AT_ONCE - len(running))]), end, cut)


def _is_time(next_ns: int | None, now_ns: int) -> bool:
    """Whether a source that waits has waited long enough. One whose turn is further off than any pause is long was told so by
    a clock that has gone back since."""
    return next_ns is None or not 0 < next_ns - now_ns <= LONGEST_PAUSE_S * NANOSECONDS


def after(source: str, ended: Ended) -> Next:
    """What becomes of a source whose tap ended so. Pure."""
    if ended.asked:
        return Next(SourceState.WAITING, f"The tap of {source} was ended with its server.")
    if ended.status == 0:
        return Next(SourceState.DONE, f"{source} was observed to its end.")
    how = f"was killed by signal {-ended.status}" if ended.status < 0 else f"failed with status {ended.status}"
    trouble = ended.said if ended.said and ended.status > 0 else f"it {how}"
    if ended.status == INPUT_IS_WRONG:
        return Next(SourceState.FAILED, f"{source} can't be observed: {trouble}", trouble)
    in_a_row = 1 if ended.ran_s >= STEADY_S else ended.in_a_row + 1
    wait_s = pause_s(in_a_row)
    return Next(
        SourceState.WAITING, f"The tap of {source} {how}; it is begun again in {wait_s:.0f} s.", trouble, in_a_row, wait_s
    )  # fmt: skip


@dataclass(slots=True)
class _Tap:
    source: SourceRecord
    child: Child
    ended: Callable[[], None]


class Taps:
    """The loop that looks after the taps. begun: the command that observes a source. Only its own thread may call `turn`."""

    def __init__(
        self, workspace: Workspace, now: Callable[[], int], ownership: Ownership, begun: Callable[[SourceRecord], Begun],
        host: str = "",
    ) -> None:  # fmt: skip
        self._workspace, self._now, self._owned, self._begun, self._host = workspace, now, ownership, begun, host
        self._taps: dict[int, _Tap] = {}
        self._in_a_row: dict[int, int] = {}
        self._left_since_s: dict[int, float] = {}
        self._log = structlog.get_logger(__name__).bind(loop="taps")
        self.restarts = 0

    def turn(self) -> None:
        """One look at the sources, and at the taps."""
        sources = self._workspace.state.sources
        for number, tap in list(self._taps.items()):
            if (status := tap.child.status()) is not None:
                self._bury(number, tap, status)
        running = {number: tap.source.network for number, tap in self._taps.items()}
        decided = plan(sources.open(Place.SERVER), running, self._owned.owns, self._host, self._now())
        for number in decided.cut:
            self._taps[number].child.kill()
        for number in decided.end:
            self._taps[number].child.stop(STOP_S)
        for source in decided.begin:
            if not self._still_had(source):
                self._begin(source)
        self._left_since_s = {number: s for number, s in self._left_since_s.items() if number not in self._taps}

    def running(self) -> int:
        """How many taps there are."""
        return len(self._taps)

    def end(self, for_s: float) -> None:
        """Ends the taps in good order; their sources wait for the next server. The loop's thread must have ended."""
        taps, self._taps = self._taps, {}
        end_all([tap.child for tap in taps.values()], for_s)
        for number, tap in taps.items():
            tap.ended()
            status = tap.child.status()
            was_done = status == 0 and tap.child.stopping_since_s is None
            self._move(number, tap, after(tap.source.source, Ended(status or 0, 0.0, 0, "", asked=not was_done)))

    def kill(self) -> None:
        """Ends the taps at once."""
        for tap in list(self._taps.values()):
            tap.child.kill()

    def cut(self) -> None:
        """Ends at once those of networks that aren't owned any more. Asks no store, and may be called from any thread."""
        for tap in list(self._taps.values()):
            if not self._owned.owns(tap.source.network):
                tap.child.kill()

    def _begin(self, source: SourceRecord) -> None:
        begun = self._begun(source)
        log = self._log.bind(source=source.source, network=source.network)
        try:
            child = Child(begun.command, lambda line: log.info("tap", said=line))
        except BaseException:
            begun.ended()
            raise
        self._taps[source.id] = _Tap(source, child, begun.ended)
        again = source.seen_ns is not None
        self.restarts += again
        message = f"{source.source} is observed {'again' if again else 'now'}."
        self._workspace.state.sources.move(
            source.id, SourceState.RUNNING, self._now(), message, process=child.process, instance="", next_ns=None,
            restarts=source.restarts + again,
        )  # fmt: skip
        log.info("begun", again=again)

    def _bury(self, number: int, tap: _Tap, status: int) -> None:
        """Takes note of a tap that has ended."""
        del self._taps[number]
        tap.ended()
        asked = tap.child.stopping_since_s is not None
        ended = Ended(status, tap.child.ran_s, self._in_a_row.pop(number, 0), tap.child.last_words(), asked)
        found = after(tap.source.source, ended)
        if found.in_a_row:
            self._in_a_row[number] = found.in_a_row
        if found.trouble:
            self._log.warning("a tap failed", source=tap.source.source, network=tap.source.network, trouble=found.trouble)
        if self._owned.owns(tap.source.network):  # else its owner says what becomes of it
            self._move(number, tap, found)

    def _move(self, number: int, tap: _Tap, found: Next) -> None:
        next_ns = self._now() + round(found.wait_s * NANOSECONDS) if found.wait_s else None
        trouble = {} if found.state is SourceState.DONE else {"trouble": found.trouble}
        try:
            self._workspace.state.sources.move(number, found.state, self._now(), found.message, next_ns=next_ns, **trouble)
        except AdumbraError as error:  # it is gone with its network, or whoever comes next finds it as it is
            self._log.warning("not noted", source=tap.source.source, trouble=str(error))

    def _still_had(self, source: SourceRecord) -> bool:
        """Whether a tap of the server before has it still: that is told to end by the kernel, and ships what it has."""
        there = source.state is SourceState.RUNNING and source.process and is_here(source.process)
        if not there or has_died(source.process, other_hosts=True):
            return False
        since_s = self._left_since_s.setdefault(source.id, time.monotonic())
        return time.monotonic() - since_s < LEFT_S
