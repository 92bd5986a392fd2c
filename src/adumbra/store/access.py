"""Tokens, users, sessions, and the log of acts, in the state store. Keeps hashes of secrets, never a secret; decides nothing.

Times are ns since the epoch; every method raises StoreError when the database fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from adumbra.schema.access import (
    ActFilter,
    ActRecord,
    NewToken,
    NewUser,
    Principal,
    Role,
    SessionRecord,
    Through,
    TokenRecord,
    UserRecord,
)
from adumbra.schema.errors import ConflictError, NotFoundError
from adumbra.store import queries, rows, tables
from adumbra.store.database import Database, names_subject, veiled
from adumbra.store.names import storable

_USED_EVERY_NS = 60 * 10**9
MAX_TOKENS, MAX_USERS = 10_000, 10_000
"""How many are kept. Of tokens, those that hold no more make room."""


class AccessStore:
    """Who may act, and what they did."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Tokens

    def add_token(self, new: NewToken, hash: str, now_ns: int) -> TokenRecord:
        """Keeps a token by the hash of its secret."""
        with self._database.writing(f"keep the token {new.name}") as connection:
            _make_room(connection, now_ns)
            networks = None if new.networks is None else list(new.networks)
            number = rows.insert(
                connection, tables.tokens, name=storable(new.name), hash=hash, role=new.role.value, networks=networks,
                once=new.once, created_ns=now_ns, expires_ns=new.expires_ns,
            )  # fmt: skip
            names_subject(f"token/{number}")
            return _token(_by_id(connection, tables.tokens, number, "token"))

    def token(self, number: int) -> TokenRecord:
        """The token of that number. Raises NotFoundError."""
        with self._database.reading(f"read token {number}") as connection:
            return _token(_by_id(connection, tables.tokens, number, "token"))

    def token_by_hash(self, hash: str) -> TokenRecord | None:
        """The token whose secret has that hash, whether it holds or not."""
        with self._database.reading("look for a token") as connection:
            row = connection.execute(sa.select(tables.tokens).where(tables.tokens.c.hash == hash)).one_or_none()
            return _token(row) if row else None

    def tokens(self, limit: int = 100, before_id: int | None = None) -> tuple[TokenRecord, ...]:
        """Tokens, newest first; `before_id` pages on."""
        with self._database.reading("list the tokens") as connection:
            return tuple(_token(row) for row in _page(connection, tables.tokens, limit, before_id))

    def count_tokens(self) -> int:
        """How many were ever made and are kept."""
        with self._database.reading("count the tokens") as connection:
            return _count(connection, tables.tokens)

    def revoke_token(self, number: int, now_ns: int) -> TokenRecord:
        """Lets a token hold no more. Nothing happens where it was revoked before. Raises NotFoundError."""
        table = tables.tokens
        with self._database.writing(f"revoke token {number}") as connection:
            _by_id(connection, table, number, "token")
            names_subject(f"token/{number}")
            chosen = (table.c.id == number) & table.c.revoked_ns.is_(None)
            connection.execute(sa.update(table).where(chosen).values(revoked_ns=now_ns))
            return _token(_by_id(connection, table, number, "token"))

    def note_use(self, token: TokenRecord, now_ns: int) -> None:
        """Notes that a token was used, once a minute at most."""
        if token.used_ns is not None and now_ns - token.used_ns < _USED_EVERY_NS:
            return
        table = tables.tokens
        with self._database.writing(f"note the use of token {token.id}") as connection:
            connection.execute(sa.update(table).where(table.c.id == token.id).values(used_ns=now_ns))

    # Users and sessions

    def add_user(self, new: NewUser, password_hash: str, now_ns: int) -> UserRecord:
        """Keeps a user. Raises ConflictError where the name is taken."""
        name, networks = new.name, None if new.networks is None else list(new.networks)
        with self._database.writing(f"keep the user {name}") as connection:
            if _count(connection, tables.users) >= MAX_USERS:
                raise ConflictError(f"there are {MAX_USERS:,} users, and no room for more", "ask for more in a report")
            try:
                number = rows.insert(
                    connection, tables.users, name=storable(name), password=password_hash, role=new.role.value,
                    networks=networks, created_ns=now_ns, external=new.external,
                )  # fmt: skip
            except sa.exc.IntegrityError:
                raise ConflictError(f"there is a user {name!r} already", "choose another name") from None
            names_subject(f"user/{name}")
            return _user(_by_id(connection, tables.users, number, "user"))

    def user(self, name: str) -> tuple[UserRecord, str] | None:
        """A user and the hash of their password."""
        with self._database.reading(f"read the user {name}") as connection:
            row = connection.execute(sa.select(tables.users).where(tables.users.c.name == storable(name))).one_or_none()
            return (_user(row), row.password) if row else None

    def user_by_external(self, external: str) -> UserRecord | None:
        """The user whom another service knows as that."""
        with self._database.reading("look for a user") as connection:
            row = connection.execute(sa.select(tables.users).where(tables.users.c.external == external)).one_or_none()
            return _user(row) if row else None

    def users(self, limit: int = MAX_USERS, after: str | None = None) -> tuple[UserRecord, ...]:
        """Users, by name; `after`, a name, pages on."""
        query = sa.select(tables.users).order_by(tables.users.c.name).limit(limit)
        with self._database.reading("list the users") as connection:
            found = connection.execute(query if after is None else query.where(tables.users.c.name > storable(after)))
            return tuple(_user(row) for row in found)

    def set_password(self, name: str, password_hash: str, *, keep_sessions: bool = False) -> None:
        """Gives a user another password, and ends their sessions. Raises NotFoundError."""
        with self._database.writing(f"set the password of {name}") as connection:
            row = _user_row(connection, name)
            connection.execute(sa.update(tables.users).where(tables.users.c.id == row.id).values(password=password_hash))
            if not keep_sessions:
                connection.execute(sa.delete(tables.sessions).where(tables.sessions.c.user_id == row.id))
            names_subject(f"user/{name}")

    def set_rights(self, name: str, role: Role, networks: tuple[str, ...] | None) -> UserRecord:
        """Lets a user do other things than before. networks: None for all. Raises NotFoundError."""
        table = tables.users
        with self._database.writing(f"set the rights of {name}") as connection:
            row = _user_row(connection, name)
            given = {"role": role.value, "networks": None if networks is None else list(networks)}
            connection.execute(sa.update(table).where(table.c.id == row.id).values(**given))
            names_subject(f"user/{name}")
            return _user(_user_row(connection, name))

    def set_disabled(self, name: str, disabled_ns: int | None) -> UserRecord:
        """Lets a user sign in no more, and ends their sessions; or, with None, lets them again. Raises NotFoundError."""
        with self._database.writing(f"disable or enable {name}") as connection:
            row = _user_row(connection, name)
            connection.execute(sa.update(tables.users).where(tables.users.c.id == row.id).values(disabled_ns=disabled_ns))
            connection.execute(sa.delete(tables.sessions).where(tables.sessions.c.user_id == row.id))
            names_subject(f"user/{name}")
            return _user(_user_row(connection, name))

    def add_session(self, user_id: int, hash: str, csrf: str, now_ns: int, expires_ns: int) -> SessionRecord:
        """Keeps a sign-in by the hash of its secret; those that are over go."""
        with self._database.writing("keep a session") as connection:
            connection.execute(sa.delete(tables.sessions).where(tables.sessions.c.expires_ns <= now_ns))
            rows.insert(
                connection, tables.sessions, user_id=user_id, hash=hash, csrf=csrf, created_ns=now_ns, expires_ns=expires_ns
            )
            rows.keep_newest(connection, tables.sessions, 100, user_id=user_id)
            found = _session(connection, hash)
            assert found is not None
            return found

    def session(self, hash: str) -> SessionRecord | None:
        """The sign-in whose secret has that hash, whether it holds or not."""
        with self._database.reading("look for a session") as connection:
            return _session(connection, hash)

    def end_session(self, hash: str) -> None:
        """Ends a sign-in, if it is there."""
        with self._database.writing("end a session") as connection:
            connection.execute(sa.delete(tables.sessions).where(tables.sessions.c.hash == hash))

    def session_holds(self, number: int, now_ns: int) -> bool:
        """Whether that sign-in is still one, and its user may still sign in."""
        table, users = tables.sessions, tables.users
        joined = sa.select(table.c.id).join(users, users.c.id == table.c.user_id)
        chosen = joined.where(table.c.id == number, table.c.expires_ns > now_ns, users.c.disabled_ns.is_(None))
        with self._database.reading("look for a session") as connection:
            return connection.execute(chosen).first() is not None

    # Acts

    def act_by_key(self, who: Principal, key: str) -> ActRecord | None:
        """What somebody did under a key of theirs."""
        with self._database.reading("look for an act") as connection:
            named = sa.select(tables.acts).where(tables.acts.c.key == f"{who.mark}:{key}")
            row = connection.execute(named).one_or_none()
            return _act(row) if row else None

    def finish_act(self, number: int, after: Mapping[str, Any] | None) -> None:
        """Notes what stands after an act."""
        with self._database.writing(f"finish act {number}") as connection:
            table = tables.acts
            connection.execute(sa.update(table).where(table.c.id == number).values(after=veiled(rows.plain(after))))

    def acts(
        self,
        chosen: ActFilter | None = None,
        limit: int = 100,
        before_id: int | None = None,
    ) -> tuple[ActRecord, ...]:
        """What was done, newest first; `before_id` pages on."""
        with self._database.reading("list the acts") as connection:
            return tuple(_act(row) for row in _page(connection, tables.acts, limit, before_id, *_chosen(chosen or ActFilter())))


def _chosen(chosen: ActFilter) -> list[sa.ColumnElement[bool]]:
    columns = tables.acts.c
    where: list[sa.ColumnElement[bool]] = []
    if chosen.networks is not None:
        where.append(columns.network.in_(chosen.networks))
    if chosen.of_networks:
        where.append(columns.network.is_not(None))
    if chosen.who is not None:
        where.append(columns.who == storable(chosen.who))
    if chosen.through is not None:
        where.append(columns.through == chosen.through.value)
    if chosen.what is not None:
        where.append(columns.what.startswith(storable(chosen.what), autoescape=True))
    if chosen.since_ns is not None:
        where.append(columns.time_ns >= chosen.since_ns)
    if chosen.until_ns is not None:
        where.append(columns.time_ns < chosen.until_ns)
    return where


def _make_room(connection: sa.Connection, now_ns: int) -> None:
    """For one token more: those that hold no more go, the oldest first. Raises ConflictError where all hold."""
    table = tables.tokens
    over = _count(connection, table) - MAX_TOKENS + 1
    if over <= 0:
        return
    past = sa.select(table.c.id).where(table.c.revoked_ns.is_not(None) | (table.c.expires_ns <= now_ns))
    oldest = past.order_by(table.c.id).limit(over)
    if connection.execute(sa.delete(table).where(table.c.id.in_(oldest))).rowcount < over:
        raise ConflictError(f"there are {MAX_TOKENS:,} tokens that hold", "revoke those that nobody uses")


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def _page(
    connection: sa.Connection, table: sa.Table, limit: int, before_id: int | None, *where: sa.ColumnElement[bool]
) -> list[sa.Row[Any]]:
    return list(connection.execute(queries.page(sa.select(table).where(*where), table, limit, before_id)))


def _by_id(connection: sa.Connection, table: sa.Table, number: int, what: str) -> sa.Row[Any]:
    row = connection.execute(sa.select(table).where(table.c.id == number)).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no {what} {number}", f"`adumbra {what} list` shows those that there are")
    return row


def _user_row(connection: sa.Connection, name: str) -> sa.Row[Any]:
    row = connection.execute(sa.select(tables.users).where(tables.users.c.name == storable(name))).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no user {name[:63]!r}", "`adumbra user list` shows those that there are")
    return row


def _networks(told: Any) -> tuple[str, ...] | None:
    return None if told is None else tuple(told)


def _token(row: sa.Row[Any]) -> TokenRecord:
    return TokenRecord(
        row.id, row.name, Role(row.role), _networks(row.networks), row.created_ns, row.expires_ns, row.revoked_ns, row.used_ns,
        row.once,
    )  # fmt: skip


def _user(row: sa.Row[Any]) -> UserRecord:
    return UserRecord(row.id, row.name, Role(row.role), _networks(row.networks), row.created_ns, row.disabled_ns, row.external)


def _session(connection: sa.Connection, hash: str) -> SessionRecord | None:
    table = tables.sessions
    row = connection.execute(sa.select(table).where(table.c.hash == hash)).one_or_none()
    if row is None:
        return None
    user = _user(_by_id(connection, tables.users, row.user_id, "user"))
    return SessionRecord(row.id, user, row.csrf, row.created_ns, row.expires_ns)


def _act(row: sa.Row[Any]) -> ActRecord:
    return ActRecord(
        row.id, row.time_ns, row.who, Role(row.role), Through(row.through), row.origin, row.what, row.network,
        row.fingerprint, row.asked, row.before, row.after, row.subject, row.by_id,
    )  # fmt: skip
