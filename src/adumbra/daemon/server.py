"""The daemon of a server: its loops, started, watched and stopped together. Serves no request.

recovery, once -> upkeep
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from adumbra.daemon.loops import Loop
from adumbra.service import upkeep
from adumbra.service.recovery import recover
from adumbra.service.workspace import Workspace

STOP_S = 20.0
"""How long the loops have, in all, to end in good order."""


@dataclass(frozen=True, slots=True)
class Periods:
    """How often what is looked after, in seconds."""

    upkeep_s: float = 300.0


class Daemon:
    """The loops over a workspace. now: the clock, ns since the epoch."""

    def __init__(self, workspace: Workspace, now: Callable[[], int], periods: Periods | None = None) -> None:
        self._workspace, self._now = workspace, now
        periods = periods or Periods()
        self._stopping = threading.Event()
        self._recovered = threading.Event()
        self._log = structlog.get_logger(__name__)
        self.loops = (Loop("upkeep", self._upkeep, periods.upkeep_s),)

    def start(self) -> None:
        """Starts the loops. What was left half done is ended by them."""
        for loop in self.loops:
            loop.start()

    def wake(self) -> None:
        """There may be something to do."""
        for loop in self.loops:
            loop.wake()

    def ready(self) -> bool:
        """Whether requests should be sent here: it has recovered, its loops run, and it isn't stopping."""
        return self._recovered.is_set() and not self._stopping.is_set() and all(loop.alive for loop in self.loops)

    def health(self) -> dict[str, str]:
        """What is to be known of each loop, "ok" where nothing is."""
        return {loop.name: str(loop.health()) for loop in self.loops}

    def stop(self, for_s: float = STOP_S) -> None:
        """Ends the loops in good order, or leaves them after so long."""
        self._stopping.set()
        until_s = time.monotonic() + for_s
        for loop in self.loops:
            loop.stop()
        for loop in self.loops:
            if not loop.join(max(0.0, until_s - time.monotonic())):
                self._log.warning("still at work; it is left", loop=loop.name)

    def kill(self) -> None:
        """Ends its children at once. The loops are left as they are."""

    def _upkeep(self) -> None:
        if not self._recovered.is_set():
            for told in recover(self._workspace, self._now()):
                self._log.warning("recovered", what=told)
            self._recovered.set()
        upkeep.maintain(self._workspace, self._now())
