"""The sources that are to be observed for networks, in the state store, and the taps that have them. Observes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from adumbra.schema.errors import ConflictError
from adumbra.schema.jobs import Place, SourceRecord, SourceState
from adumbra.store import rows, tables
from adumbra.store.database import Database, names_subject
from adumbra.store.names import storable
from adumbra.store.statements import DELETED, find, find_kept, note, numbered, of_networks

MAX_SOURCES = 64
"""Sources of one network that are not over."""
KEPT_SOURCES = 200
_OPEN = tuple(state.value for state in SourceState if not state.over)


class SourceStore:
    """Sources to be observed. Times are ns since the epoch; every method raises StoreError when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, network: str, source: str, options: Mapping[str, Any], now_ns: int, *, place: Place = Place.SERVER,
        host: str = "", instance: str = "",
    ) -> SourceRecord:  # fmt: skip
        """A source that is to be observed from now on. Raises ConflictError where there are MAX_SOURCES, or that one is."""
        with self._database.writing(f"add a source to {network}") as connection:
            owner, table = find_kept(connection, network), tables.sources
            there = of_networks(tables.sources).where(table.c.network_id == owner.id, table.c.state.in_(_OPEN))
            going = list(connection.execute(there))
            if len(going) >= MAX_SOURCES:
                raise ConflictError(f"{network} has {len(going)} sources", "stop some of them first")
            if any((row.source, row.place, row.host) == (storable(source), place.value, host) for row in going):
                raise ConflictError(f"{source} is observed for {network} already", "stop that one first, or leave it at that")
            number = rows.insert(
                connection, table, network_id=owner.id, source=storable(source), options=rows.plain(options),
                place=place.value, state=SourceState.WAITING.value, instance=instance, process="", host=storable(host),
                restarts=0, trouble="", accounts={}, created_ns=now_ns,
            )  # fmt: skip
            rows.keep_newest(connection, table, KEPT_SOURCES, _OPEN, network_id=owner.id)
            note(connection, now_ns, network, "source.added", f"{source} is to be observed.", id=number)
            names_subject(f"source/{number}")
            return _source(_find(connection, number))

    def get(self, number: int) -> SourceRecord:
        """The source of that number. Raises NotFoundError."""
        with self._database.reading(f"read source {number}") as connection:
            return _source(_find(connection, number))

    def of(self, network: str) -> tuple[SourceRecord, ...]:
        """A network's sources, newest first."""
        with self._database.reading(f"list the sources of {network}") as connection:
            table = tables.sources
            query = (
                of_networks(tables.sources)
                .where(table.c.network_id == find(connection, network).id)
                .order_by(table.c.id.desc())
            )
            return tuple(_source(row) for row in connection.execute(query))

    def open(self, place: Place | None = None) -> tuple[SourceRecord, ...]:
        """The sources of all networks that are observed or to be, oldest first."""
        with self._database.reading("list the sources") as connection:
            query = of_networks(tables.sources).where(tables.sources.c.state.in_(_OPEN)).order_by(tables.sources.c.id)
            if place is not None:
                query = query.where(tables.sources.c.place == place.value)
            return tuple(_source(row) for row in connection.execute(query))

    def move(self, number: int, state: SourceState, now_ns: int, message: str, **changed: Any) -> SourceRecord:
        """Notes what became of a source, with an event that says `message`. changed: instance, process, trouble, restarts,
        next_ns, accounts, seen_ns, as in SourceRecord. One that is stopped or over stays so. Raises NotFoundError."""
        table = tables.sources
        with self._database.writing(f"note what became of source {number}") as connection:
            found = _find(connection, number)
            names_subject(f"source/{number}")
            if found.state not in _OPEN:
                return _source(found)
            new = {"seen_ns": now_ns} | {name: rows.plain(value) for name, value in changed.items()}
            connection.execute(sa.update(table).where(table.c.id == number).values(state=state.value, **new))
            note(connection, now_ns, found.network, f"source.{state.value}", message, id=number)
            return _source(_find(connection, number))

    def tell(self, number: int, now_ns: int, accounts: Mapping[str, Any], trouble: str = "") -> bool:
        """Notes what a source's tap says of itself, without an event. Gives whether it is still to be observed."""
        table = tables.sources
        with self._database.writing(f"note how source {number} is") as connection:
            chosen = (table.c.id == number) & table.c.state.in_(_OPEN)
            new = {"seen_ns": now_ns, "accounts": rows.plain(accounts), "trouble": storable(trouble)[:2000]}
            return bool(connection.execute(sa.update(table).where(chosen).values(**new)).rowcount)

    def warn(self, number: int, trouble: str) -> None:
        """Notes what is to be known of a source, until its tap says something else."""
        table = tables.sources
        with self._database.writing(f"note the trouble of source {number}") as connection:
            connection.execute(sa.update(table).where(table.c.id == number).values(trouble=storable(trouble)[:2000]))


def _find(connection: sa.Connection, number: int) -> sa.Row[Any]:
    return numbered(connection, tables.sources, number, "source", DELETED)


def _source(row: sa.Row[Any]) -> SourceRecord:
    return SourceRecord(
        row.id, row.network, row.source, row.options, Place(row.place), SourceState(row.state), row.instance, row.process,
        row.host, row.restarts, row.trouble, row.accounts, row.created_ns, row.seen_ns, row.next_ns,
    )  # fmt: skip
