"""What pages look at again and again: read once for all that look at the same moment, and anew only where it changed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from adumbra.schema.records import Origin
from adumbra.schema.state import EventRecord
from adumbra.service.pictures.loads import Loads, loads
from adumbra.service.pictures.networks import Observed, Overview, Working, overview, sources_of, working
from adumbra.service.workspace import Workspace

T = TypeVar("T")
FRESH_NS = 1_500_000_000
"""How long a look serves other pages: less than any of them waits between two of its own."""
KEPT = 256
EVENTS, JOBS = 60, 6


@dataclass(frozen=True, slots=True)
class Seen:
    """A network as its page shows it. stamp: what differs once anything of it does."""

    stamp: tuple[Any, ...]
    overview: Overview
    load: Loads
    jobs: tuple[Working, ...]
    events: tuple[EventRecord, ...]
    sources: tuple[Observed, ...]


@dataclass(slots=True)
class _Slot:
    """Something that is looked at. turn: held by whoever looks, so that others wait for what that one finds."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    looked_ns: int = 0
    found: Any = None


class Looks:
    """Of one workspace. Threads share it. now: ns since the epoch."""

    def __init__(self, workspace: Workspace, now: Callable[[], int]) -> None:
        self._workspace, self._now = workspace, now
        self._lock = threading.Lock()
        self._slots: OrderedDict[Hashable, _Slot] = OrderedDict()

    def network(self, name: str) -> Seen:
        """A network; the very same object as long as nothing of it changed. Raises NotFoundError."""
        return self.shared(("network", name), lambda before: self._network(name, before))

    def shared(self, key: Hashable, look: Callable[[T | None], T]) -> T:
        """What `look` finds, which is given what was found before; for a moment, the same for all who ask."""
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
            while len(self._slots) > KEPT:
                self._slots.popitem(last=False)
        with slot.turn:
            now_ns = self._now()
            if slot.found is None or not 0 <= now_ns - slot.looked_ns < FRESH_NS:
                slot.found = look(slot.found)
                slot.looked_ns = now_ns
            found: T = slot.found
            return found

    def renew(self) -> None:
        """Something was changed here: whoever looks next looks anew."""
        with self._lock:
            for slot in self._slots.values():
                slot.looked_ns = 0

    def _network(self, name: str, before: Seen | None) -> Seen:
        """What is kept of a network changes with an event, but for its jobs, its sources' accounts, and its metrics."""
        workspace = self._workspace
        state = workspace.state
        record = state.network(name)
        newest = state.events(name, 1)
        jobs, sources = state.jobs.of(name, limit=JOBS), sources_of(workspace, name)
        stamp = (
            record.id, record.version, record.state, newest[0].id if newest else 0, jobs, sources,
            workspace.metrics.span(name), workspace.metrics.span(name, Origin.LIVE),
        )  # fmt: skip
        if before is not None and before.stamp == stamp:
            return before
        return Seen(
            stamp, overview(workspace, name), loads(workspace, name), tuple(working(each) for each in jobs),
            state.events(name, EVENTS), sources,
        )  # fmt: skip
