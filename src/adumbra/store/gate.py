"""A gate that many pass at once and one may close: it waits until all are through, and they wait until it opens again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Open at first. Who is inside may pass again, also while another waits to close it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[int, int] = {}
        self._closer: int | None = None

    @contextmanager
    def passed(self) -> Iterator[None]:
        """Waits while the gate is closed, or somebody waits to close it."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: self._closer in {None, me} or me in self._inside)
            self._inside[me] = self._inside.get(me, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[me] -= 1
                if not self._inside[me]:
                    del self._inside[me]
                    self._changed.notify_all()

    @contextmanager
    def closed(self, timeout_s: float | None = None) -> Iterator[None]:
        """Closed: nobody else is inside. Raises TimeoutError where somebody stays inside for longer than that."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: self._closer is None)
            self._closer = me
            try:
                if not self._changed.wait_for(lambda: not self._inside.keys() - {me}, timeout_s):
                    raise TimeoutError("somebody stays inside")
            except BaseException:
                self._closer = None
                self._changed.notify_all()
                raise
        try:
            yield
        finally:
            with self._changed:
                self._closer = None
                self._changed.notify_all()
