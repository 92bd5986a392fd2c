"""The state store's database, opened: transactions that read, and transactions that write and are logged. Knows no noun.

Whoever acts for somebody else says so by `acting`: the first transaction that writes meanwhile logs that act with itself,
so that there is no change without its log, and no act with a key is done twice.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from adumbra.schema.access import Act, Principal
from adumbra.schema.errors import ConflictError
from adumbra.store import rows, tables
from adumbra.store.engine import address, explained, name_of, open_engine, reading, writing

VEIL = "(left out)"
_SECRET = re.compile(r"passw|secret|token$|credential|authorization|cookie|csrf|api_?key|private_?key", re.IGNORECASE)
KEPT_ACTS = 100_000
"""How many acts are kept in the log."""


@dataclass(slots=True)
class Acting:
    """An act while it is done. id: its number in the log once something was written; subject: what came of it."""

    act: Act
    now_ns: int
    id: int | None = None
    subject: str = ""


_ACTING: ContextVar[Acting | None] = ContextVar("acting", default=None)


@contextlib.contextmanager
def acting(act: Act, now_ns: int) -> Iterator[Acting]:
    """Whatever this thread writes meanwhile is part of the act."""
    started = Acting(act, now_ns)
    token = _ACTING.set(started)
    try:
        yield started
    finally:
        _ACTING.reset(token)


def names_subject(subject: str) -> None:
    """Says, within a transaction that writes, what came of the act that it is part of; without one, nothing happens."""
    started = _ACTING.get()
    if started is not None and not started.subject:
        started.subject = subject


def veiled(told: Any) -> Any:
    """The same plain data, with what is a secret by its name left out: whoever forgot to leave it out does no harm."""
    if isinstance(told, dict):
        return {name: VEIL if _SECRET.search(name) and each else veiled(each) for name, each in told.items()}
    return [veiled(each) for each in told] if isinstance(told, list) else told


class Database:
    """An SQLite file or a PostgreSQL database. Opened by `with`; threads may share it."""

    def __init__(self, url_or_path: str | Path) -> None:
        self._url = address(url_or_path)
        self._engine: sa.Engine | None = None

    def __enter__(self) -> Self:
        """Opens the database, makes it if it isn't there, and brings its tables up to date. Raises StoreError."""
        self._engine = open_engine(self._url)
        return self

    def __exit__(self, *exc: object) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    @property
    def on_one_host(self) -> bool:
        """Whether only processes of this host can use the store: it is a file."""
        return self._url.get_backend_name() == "sqlite"

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for a server's database, or one in memory."""
        return Path(self._url.database) if self.on_one_host and self._url.database not in {None, "", ":memory:"} else None

    @property
    def name(self) -> str:
        """What errors call it."""
        return name_of(self._url)

    @property
    def engine(self) -> sa.Engine:
        """For what needs a connection of its own."""
        if self._engine is None:
            raise RuntimeError("the state store isn't open: use it in a `with` block")
        return self._engine

    @contextlib.contextmanager
    def writing(self, doing: str) -> Iterator[sa.Connection]:
        """A transaction that writes. Raises StoreError, and ConflictError where its act was done before, by its key."""
        started = _ACTING.get()
        with explained(f"{doing} in {self.name}"), writing(self.engine).begin() as connection:
            if started is not None and started.id is None:
                started.id = _log(connection, started)
            yield connection
            if started is not None and started.id is not None:
                table = tables.acts
                told = {"subject": started.subject, "network": started.act.network or _network_of(started.subject)}
                connection.execute(sa.update(table).where(table.c.id == started.id).values(**told))

    @contextlib.contextmanager
    def reading(self, doing: str) -> Iterator[sa.Connection]:
        """A transaction that only reads, all of one moment."""
        with explained(f"{doing} in {self.name}"), reading(self.engine).begin() as connection:
            yield connection


def _log(connection: sa.Connection, started: Acting) -> int:
    act = started.act
    if act.who.once:
        _spend(connection, act.who, started.now_ns)
    try:
        number = rows.insert(
            connection, tables.acts, time_ns=started.now_ns, who=act.who.name, role=act.who.role.value,
            through=act.who.through.value, origin=act.origin, what=act.what, network=act.network,
            key=f"{act.who.mark}:{act.key}" if act.key else None, fingerprint=act.fingerprint,
            asked=veiled(rows.plain(act.asked)), before=veiled(rows.plain(act.before)), after=None, subject="",
            by_id=act.who.token_id if act.who.token_id is not None else act.who.user_id,
        )  # fmt: skip
    except sa.exc.IntegrityError:
        raise ConflictError("an act with this key was done meanwhile", "ask again with the same key for its result") from None
    if number % 100 == 0:  # now and then is enough for a bound
        rows.keep_newest(connection, tables.acts, KEPT_ACTS)
    return number


def _network_of(subject: str) -> str | None:
    """The network that an act was done to, where what came of it is that network."""
    kind, _, name = subject.partition("/")
    return name if kind == "network" else None


def _spend(connection: sa.Connection, who: Principal, now_ns: int) -> None:
    """A token that serves once has served: in the transaction of what it was used for. Raises ConflictError if it had."""
    table = tables.tokens
    chosen = (table.c.id == who.token_id) & table.c.revoked_ns.is_(None)
    if not connection.execute(sa.update(table).where(chosen).values(revoked_ns=now_ns, used_ns=now_ns)).rowcount:
        raise ConflictError("this token serves once, and did", "make another with `adumbra token create`")
