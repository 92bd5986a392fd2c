"""Lists of what the state store keeps: of some, of a kind, a page at a time. Reads only; opens no transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from adumbra.schema.errors import InputError
from adumbra.schema.jobs import JobQuery
from adumbra.schema.state import EventQuery, EventRecord, NetworkQuery, NetworkRecord
from adumbra.store import rows, tables
from adumbra.store.names import storable
from adumbra.store.statements import of_networks

MAX_ANSWERED = 1_001
"""The most of a page, and one more, by which is told whether another follows."""


def networks(connection: sa.Connection, query: NetworkQuery) -> tuple[NetworkRecord, ...]:
    """Networks by name, from after `query.after` on."""
    table = tables.networks
    chosen = sa.select(table).order_by(table.c.name).limit(_limit(query.limit))
    if query.after is not None:
        chosen = chosen.where(table.c.name > storable(query.after))
    if query.state is not None:
        chosen = chosen.where(table.c.state == query.state.value)
    if query.names is not None:
        chosen = chosen.where(table.c.name.in_(query.names))
    return tuple(rows.network(row) for row in connection.execute(chosen))


def events(connection: sa.Connection, query: EventQuery) -> tuple[EventRecord, ...]:
    """Events, newest first; oldest first where those after one are asked for."""
    table = tables.events
    chosen = sa.select(table).limit(_limit(query.limit))
    if query.networks is not None:
        chosen = chosen.where(table.c.network.in_(query.networks))
    if query.kinds:
        chosen = chosen.where(sa.or_(*(_of_kind(table.c.kind, kind) for kind in query.kinds)))
    if query.since_ns is not None:
        chosen = chosen.where(table.c.time_ns >= query.since_ns)
    if query.before_id is not None:
        chosen = chosen.where(table.c.id < query.before_id)
    if query.after_id is not None:
        chosen = chosen.where(table.c.id > query.after_id)
    newest_first = query.after_id is None
    return tuple(rows.event(row) for row in connection.execute(chosen.order_by(_by(table.c.id, newest_first))))


def newest_event(connection: sa.Connection) -> int:
    """The number of the newest event; 0 where there is none."""
    return int(connection.scalar(sa.select(sa.func.max(tables.events.c.id))) or 0)


def jobs(connection: sa.Connection, query: JobQuery) -> Sequence[sa.Row[Any]]:
    """Rows of jobs with their network's name, newest first."""
    table = tables.jobs
    chosen = page(of_networks(table), table, query.limit, query.before_id)
    if query.networks is not None:
        chosen = chosen.where(tables.networks.c.name.in_(query.networks))
    if query.kinds:
        chosen = chosen.where(table.c.kind.in_([kind.value for kind in query.kinds]))
    if query.states:
        chosen = chosen.where(table.c.state.in_([state.value for state in query.states]))
    return connection.execute(chosen).all()


def page(chosen: sa.Select[Any], table: sa.Table, limit: int, before_id: int | None) -> sa.Select[Any]:
    """What is chosen of a table, newest first: `limit` at most, of those before a number. Raises InputError for no limit."""
    newest = chosen.order_by(table.c.id.desc()).limit(_limit(limit))
    return newest if before_id is None else newest.where(table.c.id < before_id)


def _of_kind(column: sa.ColumnElement[str], kind: str) -> sa.ColumnElement[bool]:
    """That kind, or a kind of it: "job" is "job.done" too."""
    return sa.or_(column == storable(kind), column.startswith(f"{storable(kind)}.", autoescape=True))


def _by(column: sa.Column[int], newest_first: bool) -> sa.ColumnElement[int]:
    return column.desc() if newest_first else column.asc()


def _limit(limit: int) -> int:
    if not 1 <= limit <= MAX_ANSWERED:
        raise InputError(f"{limit} can't be shown at once", f"ask for 1 to {MAX_ANSWERED - 1}")
    return limit
