"""What several acts on the state share: a network's row, found and held; what hangs on it; an event. Commits nothing."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from adumbra.schema.errors import ConflictError, NotFoundError, UnknownNetworkError
from adumbra.schema.life import check_move
from adumbra.schema.state import NetworkState
from adumbra.store import rows, tables
from adumbra.store.names import storable, suggest

DELETED = "its network was deleted; create the network again"
"""What to do where something that hangs on a network is there no more."""
KEPT_EVENTS = 10_000
"""How many are kept of each network; older ones are removed as new ones come."""


def held(connection: sa.Connection, query: sa.Select[Any], table: sa.Table) -> sa.CursorResult[Any]:
    """The rows. In a transaction that writes, those of the table are held to its end where rows can be (PostgreSQL)."""
    if connection.get_execution_options().get("adumbra_writes", False):
        query = query.with_for_update(of=table)
    return connection.execute(query)


def find(connection: sa.Connection, name: str) -> sa.Row[Any]:
    """The network's row, held so that acts on one network take turns. Raises UnknownNetworkError."""
    table = tables.networks
    row = held(connection, sa.select(table).where(table.c.name == name), table).one_or_none()
    if row is None:
        known = connection.scalars(sa.select(table.c.name).order_by(table.c.name)).all()
        raise UnknownNetworkError(
            f"there is no network {name[:63]!r}",
            suggest(name, known) if known else "make one with `adumbra network create`",
        )
    return row


def find_kept(connection: sa.Connection, name: str) -> sa.Row[Any]:
    """The same. Raises ConflictError where the network is being deleted: what is asked for would be lost with it."""
    row = find(connection, name)
    if row.state == NetworkState.DELETING.value:
        raise ConflictError(f"{name} is being deleted", "create it again once it is gone")
    return row


def of_networks(table: sa.Table) -> sa.Select[Any]:
    """The rows of a table that hang on networks, each with `network`, the name of its one."""
    return sa.select(table, tables.networks.c.name.label("network")).join(tables.networks)


def numbered(connection: sa.Connection, table: sa.Table, number: int, what: str, mend: str) -> sa.Row[Any]:
    """The row of that number, as of_networks gives it, held. Raises NotFoundError, which calls it `what`."""
    row = held(connection, of_networks(table).where(table.c.id == number), table).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no {what} {number}", mend)
    return row


def set_network(connection: sa.Connection, network_id: int, **values: object) -> None:
    """Changes a network's row."""
    connection.execute(sa.update(tables.networks).where(tables.networks.c.id == network_id).values(**values))


def note(connection: sa.Connection, now_ns: int, network: str | None, kind: str, message: str, /, **data: object) -> int:
    """Adds an event. Returns its number."""
    event_id = rows.insert(
        connection, tables.events, time_ns=now_ns, network=network, kind=kind, message=storable(message),
        data=rows.plain(data),
    )  # fmt: skip
    if event_id % 100 == 0:  # now and then is enough for a bound
        rows.keep_newest(connection, tables.events, KEPT_EVENTS, network=network)
    return event_id


def hanging_on(connection: sa.Connection, table: sa.Table, network_id: int, most: int) -> list[sa.Row[Any]]:
    """The newest rows of a table that hang on a network."""
    query = sa.select(table).where(table.c.network_id == network_id).order_by(table.c.id.desc()).limit(most)
    return list(connection.execute(query))


def next_version(connection: sa.Connection, table: sa.Table, network_id: int) -> int:
    """The number after the largest that is there."""
    newest = connection.scalar(sa.select(sa.func.max(table.c.version)).where(table.c.network_id == network_id))
    return (newest or 0) + 1


def move(connection: sa.Connection, network: sa.Row[Any], state: NetworkState, now_ns: int, reason: str) -> None:
    """Moves a network to a state, with the event of it. Raises ConflictError for a move that there isn't."""
    check_move(network.name, NetworkState(network.state), state)
    set_network(connection, network.id, state=state.value, updated_ns=now_ns)
    message = f"The network {network.name} is {state.value} (was {network.state}): {reason}"
    note(connection, now_ns, network.name, "network.state", message, was=network.state, state=state.value, reason=reason)
