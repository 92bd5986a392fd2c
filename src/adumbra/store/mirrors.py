"""Mirrors in the state store: their plans, kept before anything is installed, and how far each is. Installs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from adumbra.schema.errors import ConflictError
from adumbra.schema.state import MirrorRecord, MirrorState
from adumbra.store import rows, tables
from adumbra.store.database import Database
from adumbra.store.statements import find, note, numbered, of_networks

MAX_MIRRORS = 512
"""Mirrors of one network: of devices, and of the ports of its VMs."""


class MirrorStore:
    """Mirrors for networks. Times are ns since the epoch; every method raises StoreError when the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, network: str, plan_json: Mapping[str, Any], now_ns: int) -> MirrorRecord:
        """Keeps the plan of a mirror that is about to be installed. Raises ConflictError where there are MAX_MIRRORS."""
        with self._database.writing(f"begin a mirror of {network}") as connection:
            owner, table = find(connection, network), tables.mirrors
            there = connection.scalar(sa.select(sa.func.count()).where(table.c.network_id == owner.id)) or 0
            if there >= MAX_MIRRORS:
                raise ConflictError(f"{network} has {there} mirrors", "remove some with `adumbra mirror remove`")
            number = rows.insert(
                connection, table, network_id=owner.id, state=MirrorState.INSTALLING.value, plan=rows.plain(plan_json),
                created_ns=now_ns, updated_ns=now_ns,
            )  # fmt: skip
            return _mirror(_find(connection, number))

    def move(self, number: int, state: MirrorState, now_ns: int, message: str) -> MirrorRecord:
        """Notes how far a mirror is, with an event. Raises NotFoundError where it isn't there (any more)."""
        with self._database.writing(f"set the state of mirror {number}") as connection:
            network, table = _find(connection, number).network, tables.mirrors
            new = {"state": state.value, "updated_ns": now_ns}
            connection.execute(sa.update(table).where(table.c.id == number).values(**new))
            note(connection, now_ns, network, f"mirror.{state.value}", message, id=number)
            return _mirror(_find(connection, number))

    def revise(self, number: int, plan_json: Mapping[str, Any], state: MirrorState, now_ns: int, message: str) -> MirrorRecord:
        """Keeps another plan in a mirror's place, with an event. Raises NotFoundError where it isn't there (any more)."""
        with self._database.writing(f"keep another plan of mirror {number}") as connection:
            network, table = _find(connection, number).network, tables.mirrors
            new = {"state": state.value, "plan": rows.plain(plan_json), "updated_ns": now_ns}
            connection.execute(sa.update(table).where(table.c.id == number).values(**new))
            note(connection, now_ns, network, f"mirror.{state.value}", message, id=number)
            return _mirror(_find(connection, number))

    def forget(self, number: int, now_ns: int, message: str) -> None:
        """Removes the record of a mirror of which nothing stands any more, with an event."""
        with self._database.writing(f"forget mirror {number}") as connection:
            network, table = _find(connection, number).network, tables.mirrors
            connection.execute(sa.delete(table).where(table.c.id == number))
            note(connection, now_ns, network, "mirror.removed", message, id=number)

    def of(self, network: str | None = None) -> tuple[MirrorRecord, ...]:
        """The mirrors of a network, or of all (None), oldest first."""
        table = tables.mirrors
        query = of_networks(table).order_by(table.c.id)
        with self._database.reading("list the mirrors") as connection:
            if network is not None:
                query = query.where(table.c.network_id == find(connection, network).id)
            return tuple(_mirror(row) for row in connection.execute(query))


def _find(connection: sa.Connection, number: int) -> sa.Row[Any]:
    return numbered(connection, tables.mirrors, number, "mirror", "`adumbra mirror list` shows those that there are")


def _mirror(row: sa.Row[Any]) -> MirrorRecord:
    return MirrorRecord(row.id, row.network, MirrorState(row.state), row.plan, row.created_ns, row.updated_ns)
