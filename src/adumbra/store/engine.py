"""Opens the state store's database: its address, its settings, its migrations, its errors in plain words.

Knows how a database is spoken to; never what is kept in it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from adumbra.schema.errors import StoreError
from adumbra.store.tables import METADATA

HEAD = "0006"
"""The newest migration. Known here so that a store that has it is opened without loading Alembic."""

BUSY_TIMEOUT_MS = 10_000
_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""How libpq finds out that a server, or the way to it, is gone."""
_TURNS = (  # whoever waits for its turn waits no longer than on SQLite, nor for long for one that hangs in the middle
    f"SELECT set_config('lock_timeout', '{BUSY_TIMEOUT_MS}', true), "
    "set_config('idle_in_transaction_session_timeout', '60000', true)"
)
_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x6164756D627261  # PostgreSQL's advisory lock of this program: "adumbra"


def address(url_or_path: str | Path) -> sa.URL:
    """A PostgreSQL URL as it is, anything else as the path of an SQLite file. Raises StoreError for another URL."""
    if isinstance(url_or_path, Path) or "://" not in url_or_path:
        return sa.URL.create("sqlite", database=str(url_or_path))
    try:
        url = sa.make_url(url_or_path)
    except sa.exc.ArgumentError:
        raise StoreError("the state store's URL can't be read", "write it like postgresql://user@host/database") from None
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and url.database:
        return url
    raise StoreError(
        f"the state can't be kept at {url.render_as_string(hide_password=True)}",
        "name a file, or a URL like postgresql://user@host/database",
    )


def open_engine(url: sa.URL) -> sa.Engine:
    """An engine whose connections are set up and whose tables are the newest. Raises StoreError."""
    with explained(f"open the state store {name_of(url)}"):
        if url.get_backend_name() == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        try:
            engine = sa.create_engine(url, **_settings(url))
        except ImportError:
            raise StoreError("the driver for PostgreSQL is not installed", "run `pip install psycopg[binary]`") from None
        (_set_up_sqlite if url.get_backend_name() == "sqlite" else _set_up_postgresql)(engine)
        try:
            migrate(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


def name_of(url: sa.URL) -> str:
    """What errors call the store: its file, or its URL without the password."""
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def _settings(url: sa.URL) -> dict[str, Any]:
    """How connections are made: to a server that may be stopped, or out of reach, each is tried before it is used."""
    if url.get_backend_name() == "sqlite":
        return {}
    patience = {name: value for name, value in _PATIENCE.items() if name not in url.query}
    return {"pool_pre_ping": True, "connect_args": patience}


def writing(engine: sa.Engine) -> sa.Engine:
    """The same engine for transactions that write: on SQLite they take their turn at the beginning, never half-way."""
    return engine.execution_options(adumbra_writes=True)


def reading(engine: sa.Engine) -> sa.Engine:
    """The same engine for transactions that only read: all of what they read is of one moment."""
    return engine if engine.dialect.name == "sqlite" else engine.execution_options(isolation_level="REPEATABLE READ")


def _set_up_sqlite(engine: sa.Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # this module begins the transactions, so that making tables is in them too
        for setting in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {setting}").close()

    @event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("adumbra_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _set_up_postgresql(engine: sa.Engine) -> None:
    @event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("adumbra_writes", False):
            connection.exec_driver_sql(_TURNS)


def migrate(engine: sa.Engine) -> None:
    """Brings the tables up to HEAD in one transaction; does nothing where they are there. Raises StoreError.

    Two processes may do so at once: one waits for the other.
    """
    with engine.begin() as connection:
        if _revision(connection) == HEAD:
            return
    import alembic.command
    import alembic.config
    import alembic.util

    on_sqlite = engine.dialect.name == "sqlite"
    with writing(engine).begin() as connection:
        if not on_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        if _revision(connection) is None and (taken := _foreign(connection)):
            raise StoreError(
                f"{name_of(engine.url)} is a database, but not of Adumbra's state (it has a table {taken})",
                "name another file, or move this one away" if on_sqlite else "make a database for it alone, and name that",
            )
        config = alembic.config.Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        config.attributes["connection"] = connection
        try:
            alembic.command.upgrade(config, "head")
        except alembic.util.CommandError as error:
            raise StoreError(
                f"the state store {name_of(engine.url)} was made by a newer Adumbra (this one knows it up to {HEAD})",
                "upgrade Adumbra, or name another file",
            ) from error


def _foreign(connection: sa.Connection) -> str:
    """A table of another program: any in an SQLite file; in PostgreSQL one that has the name of one of ours, or ""."""
    there = sa.inspect(connection).get_table_names()
    if connection.dialect.name != "sqlite":
        there = [name for name in there if name in METADATA.tables]
    return there[0] if there else ""


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return None if revision is None else str(revision)


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turns the database's errors into one line that says what was being done and what to do next."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        what, mend = _explain(error.orig)
        raise StoreError(f"could not {doing}: {what}", mend) from error
    except sa.exc.TimeoutError as error:
        raise StoreError(f"could not {doing}: too many are using it at once", "run the same again") from error
    except OSError as error:
        raise StoreError(f"could not {doing}: {error.strerror or error}", "check the folder and its permissions") from error


_SQLITE_TROUBLES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("SQLITE_BUSY", "SQLITE_LOCKED"),
        f"another process has been writing to it for {BUSY_TIMEOUT_MS // 1000} s",
        "wait for it to end and run the same again",
    ),
    (
        ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM", "SQLITE_AUTH"),
        "the file or its folder can't be written to",
        "give this user the right to write both",
    ),
    (("SQLITE_FULL",), "the disk is full", "what was stored before is as it was; free some space and run the same again"),
    (
        ("SQLITE_IOERR",),
        "the disk refused to read or write",
        "what was stored before is as it was; check the disk and its quota and run the same again",
    ),
    (("SQLITE_NOTADB",), "it is no SQLite file", "name another file, or move this one away"),
    (("SQLITE_CORRUPT",), "the file is damaged", "put back a copy, or move it away to begin anew"),
)


_POSTGRESQL_TROUBLES: tuple[tuple[tuple[str, ...], str, str], ...] = (  # by SQLSTATE (PostgreSQL manual, appendix A)
    (
        ("55P03",),
        f"another process has been writing to it for {BUSY_TIMEOUT_MS // 1000} s",
        "wait for it to end and run the same again",
    ),
    (("40",), "another process wrote to it at the same time", "run the same again"),
    (("42501",), "this user lacks the right to", "let the user own the database"),
    (("53100",), "its disk is full", "what was stored before is as it was; free some space and run the same again"),
    (("53300",), "it has too many connections", "end some, or raise max_connections"),
    (("57P", "08"), "the server is stopping or starting, or the connection broke", "run the same again once it is up"),
)


def _explain(error: BaseException | None) -> tuple[str, str]:
    state = getattr(error, "sqlstate", None) or ""
    for states, what, mend in _POSTGRESQL_TROUBLES:
        if state.startswith(states):
            return what, mend
    kind = getattr(error, "sqlite_errorname", "")
    for kinds, what, mend in _SQLITE_TROUBLES:
        if kind.startswith(kinds):
            return what, mend
    text = str(error).strip()
    first_line = text.splitlines()[0][:300] if text else type(error).__name__
    if "connection" in first_line and not kind:  # libpq says in words what happened before a server answered
        return first_line, "check the URL, and that the server runs and lets this user in"
    return first_line, "check that the database is there and may be written to, and run the same again"
