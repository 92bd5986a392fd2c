"""The embedded metric store for programs that share it: opened when it is needed, waited for, let go of in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from adumbra.schema.errors import StoreBusyError
from adumbra.schema.records import MetricBatch, Origin, Series, SeriesQuery
from adumbra.store.duckdb import DuckDBStore
from adumbra.store.levels import Retention
from adumbra.store.protocol import Upkeep

_BUSY_TRIES, _BUSY_PAUSE_S = 30, 0.1  # a process that observes a live source has the store for moments only


class EmbeddedStore:
    """A MetricStore in a DuckDB file, which one process at a time has. Opened by `with`; that alone doesn't take the file yet.

    Whatever needs it takes it, and keeps it until `release`. Threads may share it, and read while others write. Raises
    StoreBusyError where another process doesn't let it go.
    """

    abilities = DuckDBStore.abilities

    def __init__(self, path: Path, retention: Retention | None = None) -> None:
        self.path = path
        self._retention = retention
        self._store: DuckDBStore | None = None
        self._turn = threading.Condition()
        self._at_work = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Lets other processes have the file, until it is needed here again; waits for the threads that are at work in it."""
        with self._turn:
            while self._at_work:
                self._turn.wait()
            store, self._store = self._store, None
            if store is not None:
                store.__exit__()

    def write(self, batch: MetricBatch) -> int:
        with self._taken() as store:
            return store.write(batch)

    def amend(self, batch: MetricBatch) -> int:
        with self._taken() as store:
            return store.amend(batch)

    def read(self, query: SeriesQuery) -> Series:
        with self._taken() as store:
            return store.read(query)

    def vms(self, network: str) -> tuple[str, ...]:
        with self._taken() as store:
            return store.vms(network)

    def span(self, network: str, origin: Origin = Origin.SHADOW) -> tuple[int, int] | None:
        with self._taken() as store:
            return store.span(network, origin)

    def delete_network(self, network: str) -> int:
        with self._taken() as store:
            return store.delete_network(network)

    def maintain(self, now_ns: int) -> Upkeep:
        """See KeptStore.maintain."""
        with self._taken() as store:
            return store.maintain(now_ns)

    @contextmanager
    def _taken(self) -> Iterator[DuckDBStore]:
        """The store, opened, and not let go of meanwhile."""
        with self._turn:
            store = self._store = self._store or self._open()
            self._at_work += 1
        try:
            yield store
        finally:
            with self._turn:
                self._at_work -= 1
                self._turn.notify_all()

    def _open(self) -> DuckDBStore:
        for left in reversed(range(_BUSY_TRIES)):
            try:
                return DuckDBStore(self.path, self._retention).__enter__()
            except StoreBusyError:
                if not left:
                    raise
                time.sleep(_BUSY_PAUSE_S)
        raise AssertionError
