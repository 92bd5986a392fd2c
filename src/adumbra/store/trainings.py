"""The versions of what was learned of a network, in the state store: kept, listed, served, forgotten. Commits nothing.

Each function works within a transaction that its caller began and that holds the network's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from adumbra.schema.errors import ConflictError, NotFoundError
from adumbra.schema.state import NewTraining, SavedTraining, TrainingRecord, TrainingVersion
from adumbra.store import rows, tables
from adumbra.store.statements import note, set_network

KEPT_TRAININGS = 5
"""How many are kept of each network, the newest, and the one that serves beside them."""
KEPT_BYTES = 256 * 2**20
"""How large the models of a network's trainings are together at most; only the newest and the one that serves, which are
always kept, may exceed it."""

_TABLE = tables.trainings
_WITHOUT_MODELS = (
    *(column for column in _TABLE.c if column.name != "artifact"),
    sa.func.length(_TABLE.c.artifact).label("artifact_bytes"),
)


def save(connection: sa.Connection, network: sa.Row[Any], new: NewTraining, now_ns: int) -> SavedTraining:
    """Keeps a training as the next version, and removes those that are beyond the bounds."""
    if new.against != network.training_serving:
        raise ConflictError(
            f"version {network.training_serving or 'none'} of what was learned of {network.name} serves now, and the new one "
            f"was compared with {new.against or 'none'}",
            "train again",
        )
    version = (network.training_last or 0) + 1
    serving = version if new.serves else network.training_serving
    rows.insert(
        connection, _TABLE, network_id=network.id, version=version, summary=rows.plain(new.summary), artifact=new.artifact,
        created_ns=now_ns, origin=rows.plain(new.origin), judgement=rows.plain(new.judgement),
        served_ns=now_ns if new.serves else None,
    )  # fmt: skip
    set_network(connection, network.id, training_last=version, training_serving=serving)
    gone = _trim(connection, network, serving)
    stands = "It serves." if new.serves else f"Version {serving} serves on." if serving else "None serves."
    message = f"Learned version {version}. {stands}{_told(gone)}"
    note(
        connection, now_ns, network.name, "training.saved", message,
        version=version, serves=new.serves, serving=serving, forgotten=gone,
    )  # fmt: skip
    return SavedTraining(rows.training_version(network.name, _row(connection, network, version), serving), tuple(gone))


def read(connection: sa.Connection, network: sa.Row[Any], version: int | None) -> TrainingRecord | None:
    """A version with its models, None for the one that serves; None where it isn't there."""
    wanted = network.training_serving if version is None else version
    chosen = sa.select(_TABLE).where(_TABLE.c.network_id == network.id, _TABLE.c.version == wanted)
    row = connection.execute(chosen).one_or_none()
    return None if row is None else rows.training(network.name, row, network.training_serving)


def every(connection: sa.Connection, network: sa.Row[Any]) -> tuple[TrainingVersion, ...]:
    """The versions that are kept, newest first."""
    found = sa.select(*_WITHOUT_MODELS).where(_TABLE.c.network_id == network.id).order_by(_TABLE.c.version.desc())
    return tuple(rows.training_version(network.name, row, network.training_serving) for row in connection.execute(found))


def serve(connection: sa.Connection, network: sa.Row[Any], version: int, now_ns: int) -> TrainingVersion:
    """Lets a version serve. Nothing happens where it does."""
    before = network.training_serving
    chosen = _row(connection, network, version)
    if chosen.version != before:
        served = sa.update(_TABLE).where(_TABLE.c.id == chosen.id).values(served_ns=now_ns)
        connection.execute(served)
        set_network(connection, network.id, training_serving=chosen.version)
        message = f"Version {chosen.version} of what was learned serves, in place of {before or 'none'}."
        note(connection, now_ns, network.name, "training.served", message, version=chosen.version, before=before)
    return rows.training_version(network.name, _row(connection, network, chosen.version), chosen.version)


def forget(connection: sa.Connection, network: sa.Row[Any], version: int, now_ns: int) -> TrainingVersion:
    """Removes a version that doesn't serve."""
    row = _row(connection, network, version)
    if version == network.training_serving:
        raise ConflictError(
            f"version {version} of what was learned of {network.name} serves",
            f"let another serve first, with `adumbra model rollback {network.name} VERSION`",
        )
    connection.execute(sa.delete(_TABLE).where(_TABLE.c.id == row.id))
    note(connection, now_ns, network.name, "training.forgotten", f"Forgot version {version}.", version=version)
    return rows.training_version(network.name, row, network.training_serving)


def _row(connection: sa.Connection, network: sa.Row[Any], version: int) -> sa.Row[Any]:
    chosen = sa.select(*_WITHOUT_MODELS).where(_TABLE.c.network_id == network.id, _TABLE.c.version == version)
    row = connection.execute(chosen).one_or_none()
    if row is None:
        kept = ", ".join(str(each.version) for each in every(connection, network))
        raise NotFoundError(
            f"there is no version {version} of what was learned of {network.name}",
            f"kept are {kept}" if kept else f"run `adumbra train {network.name}`",
        )
    return row


def _trim(connection: sa.Connection, network: sa.Row[Any], serving: int | None) -> list[int]:
    """Removes what is beyond the bounds, the oldest first; gives the versions that went."""
    newest, *older = every(connection, network)
    size = newest.artifact_bytes + sum(each.artifact_bytes for each in older if each.version == serving)
    gone = []
    for place, each in enumerate(older, 2):
        if each.version == serving:
            continue
        size += each.artifact_bytes
        if place > KEPT_TRAININGS or size > KEPT_BYTES:
            gone.append(each.version)
    if gone:
        beyond = sa.delete(_TABLE).where(_TABLE.c.network_id == network.id, _TABLE.c.version.in_(gone))
        connection.execute(beyond)
    return sorted(gone)


def _told(gone: Sequence[int]) -> str:
    return f" Forgot version{'s' if len(gone) > 1 else ''} {', '.join(map(str, gone))}, to stay within bounds." if gone else ""
