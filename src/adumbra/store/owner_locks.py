"""Locks that one session of PostgreSQL holds, one a network: gone with the session, however it ends. Decides nothing.

They are advisory locks (PostgreSQL manual, 13.3.5) of a connection of its own: what a pool in between shares among sessions,
as PgBouncer does in transaction mode, holds none.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from adumbra.store.database import Database
from adumbra.store.engine import explained

IDLE_S = 15
"""After so long without a word from its holder, PostgreSQL ends the session, and with it the locks."""
_CLASS = 0x61647572
"""The first key of these locks, "adur"; the second is the network's number."""
_SESSION = {
    "idle_session_timeout": f"{IDLE_S}s",  # of PostgreSQL 14 and later
    "statement_timeout": "5s",
    "tcp_keepalives_idle": "6",  # a host that is gone is found out about as late as one that is silent
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
_CLIENT = {
    "connect_timeout": 5,
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 2,
    "tcp_user_timeout": 6_000,
}


class OwnerLocks:
    """A session, and the networks, by number, whose locks it holds. One thread uses it. Raises StoreError where it is gone."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._engine: sa.Engine | None = None
        self._connection: sa.Connection | None = None

    @property
    def open(self) -> bool:
        return self._connection is not None

    def begin(self) -> None:
        """Opens the session. It holds nothing yet."""
        self.end()
        url = self._database.engine.url
        patience: dict[str, Any] = {name: value for name, value in _CLIENT.items() if name not in url.query}
        with explained(f"open a session for locks in {self._database.name}"):
            self._engine = sa.create_engine(
                url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT",
                connect_args={**patience, "application_name": "adumbra owner"},
            )  # fmt: skip
            self._connection = self._engine.connect()
            known = set(
                self._connection.scalars(sa.text("SELECT name FROM pg_settings WHERE name = ANY(:n)"), {"n": list(_SESSION)})
            )
            for name, value in _SESSION.items():
                if name in known:
                    self._connection.execute(sa.text("SELECT set_config(:n, :v, false)"), {"n": name, "v": value})

    def end(self) -> None:
        """Ends the session, and with it all that it holds. Raises nothing."""
        connection, self._connection = self._connection, None
        engine, self._engine = self._engine, None
        try:
            if connection is not None:
                connection.close()
        except Exception:  # noqa: BLE001, S110 - whatever is left of a connection: it is left
            pass
        if engine is not None:
            engine.dispose()

    def beat(self) -> None:
        """Says that the holder lives; finds out whether the session does."""
        with explained(f"keep a session for locks in {self._database.name}"):
            self._held().execute(sa.text("SELECT 1"))

    def take(self, numbers: Collection[int]) -> frozenset[int]:
        """Takes the locks that nobody holds; gives those that it took. Give it none that it holds."""
        if not numbers:
            return frozenset()
        query = sa.text("SELECT n, pg_try_advisory_lock(:c, n) FROM unnest(CAST(:all AS int[])) AS n")
        with explained(f"take locks in {self._database.name}"):
            found = self._held().execute(query, {"c": _CLASS, "all": sorted(numbers)})
            return frozenset(number for number, taken in found if taken)

    def free(self, numbers: Collection[int]) -> None:
        """Lets go of these."""
        if numbers:
            query = sa.text("SELECT pg_advisory_unlock(:c, n) FROM unnest(CAST(:all AS int[])) AS n")
            with explained(f"free locks in {self._database.name}"):
                self._held().execute(query, {"c": _CLASS, "all": sorted(numbers)})

    def _held(self) -> sa.Connection:
        if self._connection is None:
            raise RuntimeError("there is no session: begin one")
        return self._connection
