"""Counts what was sent to a remote store, and what of it the store refused, which is said now and then. Sends nothing."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

_SAID_EVERY_S = 60.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SendCounters:
    """What was sent. samples: those that the server took; dropped: those that it refused, by reason; retries: further tries.

    A sample is what the server counts: of Prometheus a value, of InfluxDB a line. Of a server that keeps the good part of what
    it refuses (Mimir), the whole request counts as `partly_refused`, at most all of which was lost.
    """

    requests: int = 0
    samples: int = 0
    body_bytes: int = 0
    retries: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)


class Tally:
    """Counts for several threads."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    def count(self, **by: int) -> None:
        with self._turn:
            self._counts.update(by)

    def drop(self, reason: str, samples: int) -> None:
        with self._turn:
            self._dropped[reason] += samples

    def told(self) -> SendCounters:
        with self._turn:
            return SendCounters(**self._counts, dropped=dict(self._dropped))


class Refusals:
    """Counts what a store refuses, by reason, and says so: at once, and then at most once a minute."""

    def __init__(self, tally: Tally, store: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._tally, self._store, self._clock = tally, store, clock
        self._said_s = -_SAID_EVERY_S

    def drop(self, reason: str, samples: int, status: int, said: str) -> None:
        """So many samples were refused with this status; `said`: by what words, to be shown."""
        self._tally.drop(reason, samples)
        now_s = self._clock()
        if now_s - self._said_s >= _SAID_EVERY_S:
            self._said_s = now_s
            _log.warning(
                "the store refuses samples, which are dropped",
                store=self._store, reason=reason, status=status, said=said, dropped=dict(self._tally.told().dropped),
            )  # fmt: skip
