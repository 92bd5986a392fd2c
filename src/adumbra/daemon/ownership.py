"""Which networks this server's loops are for: each has one owner among the servers that share a state store.

    SQLite: a file's one server owns all (a lock beside the file keeps a second one out).
    PostgreSQL: whoever has a network's lock. A session that is gone holds none, so that another server takes over.

An owner that can't say that it lives must not act: after LEASE_S without an answer from PostgreSQL this server owns nothing,
and that is before PostgreSQL lets others have the locks (store.owner_locks.IDLE_S). So there are never two.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from adumbra.store.owner_locks import IDLE_S, OwnerLocks
from adumbra.store.state import StateStore

BEAT_S, LEASE_S = 2.0, 10.0
assert LEASE_S < IDLE_S - BEAT_S


class Ownership(Protocol):
    """Threads may share it."""

    def owns(self, network: str) -> bool:
        """Whether this server acts for the network, now."""
        ...

    def since_s(self, network: str) -> float | None:
        """For how long it has, in seconds; None where it doesn't."""
        ...

    def turn(self) -> None:
        """To be done every BEAT_S. Raises StoreError; nothing is owned then."""
        ...

    def end(self) -> None:
        """Lets others own everything."""
        ...


class SoleOwner:
    """Owns everything: the state store is a file, and no other server is let near it."""

    def __init__(self) -> None:
        self._began_s: float | None = time.monotonic()

    def owns(self, network: str) -> bool:
        del network
        return self._began_s is not None

    def since_s(self, network: str) -> float | None:
        del network
        return None if self._began_s is None else time.monotonic() - self._began_s

    def turn(self) -> None:
        pass

    def end(self) -> None:
        self._began_s = None


class SharedOwner:
    """Owns the networks whose locks it has in PostgreSQL. changed: told when that is others than before."""

    def __init__(self, state: StateStore, changed: Callable[[], None] = lambda: None) -> None:
        self._state, self._changed = state, changed
        self._locks = OwnerLocks(state.database)
        self._turn = threading.Lock()
        self._held: dict[str, tuple[int, float]] = {}
        self._until_s = 0.0
        self._log = structlog.get_logger(__name__)

    def owns(self, network: str) -> bool:
        with self._turn:
            return network in self._held and time.monotonic() < self._until_s

    def since_s(self, network: str) -> float | None:
        with self._turn:
            found = self._held.get(network)
            now_s = time.monotonic()
            return now_s - found[1] if found is not None and now_s < self._until_s else None

    def turn(self) -> None:
        began_s = time.monotonic()  # what is known then holds from here on, however late the answer comes
        try:
            if not self._locks.open:
                self._locks.begin()
            self._locks.beat()
            self._settle(self._state.network_numbers(), began_s)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        with self._turn:
            lost, self._held = self._held, {}
            self._until_s = 0.0
        self._locks.end()
        if lost:
            self._log.warning("owns nothing any more", networks=len(lost))
            self._changed()

    def _settle(self, there: Mapping[str, int], began_s: float) -> None:
        """Takes what nobody has, and lets go of what is gone."""
        held = {number: (name, since_s) for name, (number, since_s) in self._held.items()}
        by_number = {number: name for name, number in there.items()}
        gone = held.keys() - by_number.keys()
        taken = self._locks.take(by_number.keys() - held.keys())
        self._locks.free(gone)
        now_s = time.monotonic()
        known = {by_number[number]: (number, since_s) for number, (_, since_s) in held.items() if number in by_number}
        known |= {by_number[number]: (number, now_s) for number in taken}
        with self._turn:
            self._held, self._until_s = known, began_s + LEASE_S
        if taken:
            self._log.info("owns", taken=len(taken), networks=len(known))
        if taken or gone:
            self._changed()


def ownership_of(state: StateStore, changed: Callable[[], None] = lambda: None) -> Ownership:
    """What suits the state store."""
    return SoleOwner() if state.on_one_host else SharedOwner(state, changed)
