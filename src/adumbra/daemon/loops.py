"""A loop: work that is done again and again in a thread of its own, sooner when it is woken, later while it fails.

Knows nothing of what is done. One that fails is logged, and tried again ever less often; it never ends by itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""How long a loop waits after it failed once, and at most; in between twice as long each time."""
STUCK_S = 600.0
"""Work that takes longer is told of."""


def pause_s(failures: int, first_s: float = FIRST_PAUSE_S, longest_s: float = LONGEST_PAUSE_S) -> float:
    """How long to wait after so many failures in a row. Pure."""
    return 0.0 if failures <= 0 else min(longest_s, first_s * 2.0 ** min(failures - 1, 30))


@dataclass(frozen=True, slots=True)
class Health:
    """How a loop fares.

    runs, failures: how often it was done, and in vain; in_a_row: failures since it last went well; trouble: why it failed last,
    "" once it goes well; took_s: how long the last one took; working_s: how long this one has, None between two.
    """

    runs: int = 0
    failures: int = 0
    in_a_row: int = 0
    trouble: str = ""
    took_s: float = 0.0
    working_s: float | None = None

    @property
    def well(self) -> bool:
        """Whether it went well the last time and isn't stuck."""
        return self.runs > self.failures and not self.in_a_row and (self.working_s or 0.0) < STUCK_S

    def __str__(self) -> str:
        if self.working_s is not None and self.working_s >= STUCK_S:
            return f"at the same work for {self.working_s:.0f} s"
        if self.in_a_row:
            return f"failed {self.in_a_row} times in a row: {self.trouble}"
        return "ok" if self.runs else "starting"


class Loop:
    """Does `work` every period_s seconds, or as soon as it is woken. Errors are its keeper's to read, by `health`.

    work gives how long to wait, None for period_s. It should look at `stopping` now and then where it takes long.
    """

    def __init__(
        self, name: str, work: Callable[[], float | None], period_s: float, longest_pause_s: float = LONGEST_PAUSE_S
    ) -> None:
        self.name = name
        self._longest_pause_s = longest_pause_s
        self.stopping = threading.Event()
        self._work, self._period_s = work, period_s
        self._changed = threading.Condition()
        self._woken = False
        self._health = Health()
        self._began_s: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"loop {name}", daemon=True)
        self._log = structlog.get_logger(__name__).bind(loop=name)

    def start(self) -> None:
        """Begins, with the first work at once."""
        self._thread.start()

    def wake(self) -> None:
        """Has the work done now, or once more after what is being done. One that fails waits all the same."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Asks it to end after what it is doing. Waits for nothing."""
        self.stopping.set()
        with self._changed:
            self._changed.notify_all()

    def join(self, timeout_s: float) -> bool:
        """Waits for its end. Gives whether it came."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def health(self) -> Health:
        """How it fares now."""
        with self._changed:
            known, began_s = self._health, self._began_s
        working_s = None if began_s is None else time.monotonic() - began_s
        return Health(known.runs, known.failures, known.in_a_row, known.trouble, known.took_s, working_s)

    def _run(self) -> None:
        while not self.stopping.is_set():
            wanted_s = self._once()
            failures = self._health.in_a_row
            if failures:
                self._wait(pause_s(failures, longest_s=self._longest_pause_s), patient=True)
            else:
                self._wait(self._period_s if wanted_s is None else wanted_s, patient=False)

    def _once(self) -> float | None:
        began_s = time.monotonic()
        with self._changed:
            self._woken, self._began_s = False, began_s
        trouble, wanted_s = "", None
        try:
            wanted_s = self._work()
        except Exception as error:  # noqa: BLE001 - whatever it is: a loop goes on
            trouble = " ".join(str(error).split())[:500] or type(error).__name__
            self._complain(error, trouble)
        took_s = time.monotonic() - began_s
        with self._changed:
            was = self._health
            in_a_row = was.in_a_row + 1 if trouble else 0
            self._health = Health(was.runs + 1, was.failures + bool(trouble), in_a_row, trouble, took_s)
            self._began_s = None
        if was.in_a_row and not trouble:
            self._log.warning("goes on again", failures=was.in_a_row)
        return wanted_s

    def _complain(self, error: Exception, trouble: str) -> None:
        from adumbra.schema.errors import AdumbraError

        first = not self._health.in_a_row
        known = isinstance(error, AdumbraError)
        log = self._log.warning if known else self._log.error
        if first or trouble != self._health.trouble:  # the same again and again says nothing new
            log("failed; it is tried again", trouble=trouble, exc_info=None if known else error)

    def _wait(self, wait_s: float, *, patient: bool) -> None:
        until_s = time.monotonic() + wait_s
        with self._changed:
            while not self.stopping.is_set() and (patient or not self._woken):
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    return
                self._changed.wait(left_s)
