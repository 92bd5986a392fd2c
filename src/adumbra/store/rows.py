"""Rows of the state store: how they are put in, trimmed, and turned into records. Opens and commits nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from adumbra.schema.state import (
    CalibrationRecord,
    EventRecord,
    NetworkRecord,
    NetworkState,
    ObservationRecord,
    ObservationState,
    ProfileRecord,
    TrainingRecord,
    TrainingVersion,
)
from adumbra.store.names import storable


def insert(connection: sa.Connection, table: sa.Table, **values: object) -> int:
    """Adds a row. Returns its number."""
    key = connection.execute(sa.insert(table).values(**values)).inserted_primary_key
    if key is None:
        raise RuntimeError(f"the database gave no number to a row of {table.name}")
    return int(key[0])


def keep_newest(
    connection: sa.Connection, table: sa.Table, most: int, but_states: Collection[str] = (), **where: object
) -> None:  # fmt: skip
    """Removes the rows beyond the newest `most` of those whose columns have these values; never one in `but_states`."""
    conditions = [table.c[name] == value for name, value in where.items()]
    if but_states:
        conditions.append(table.c.state.not_in(but_states))
    last = sa.select(table.c.id).where(*conditions).order_by(table.c.id.desc()).offset(most).limit(1).scalar_subquery()
    connection.execute(sa.delete(table).where(*conditions, table.c.id <= last))


def plain(value: Any) -> Any:
    """JSON data of what is nearly that: tuples and arrays become lists, NumPy scalars numbers; what is no finite number, null.

    Raises TypeError for anything else.
    """
    match value:
        case None | bool() | int():
            return value
        case str():
            return storable(value)
        case float():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {storable(str(key)): plain(entry) for key, entry in value.items()}
        case list() | tuple():
            return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays, without loading NumPy
        return plain(value.tolist())
    raise TypeError(f"a {type(value).__name__} is no JSON data")


def network(row: sa.Row[Any]) -> NetworkRecord:
    return NetworkRecord(
        row.id, row.name, row.spec_text, row.version, NetworkState(row.state), row.created_ns, row.updated_ns,
        row.spec_json or "",
    )  # fmt: skip


def observation(row: sa.Row[Any]) -> ObservationRecord:
    return ObservationRecord(
        row.id, row.network, row.source, row.fingerprint, ObservationState(row.state), row.accounts, row.started_ns,
        row.finished_ns,
    )  # fmt: skip


def training_version(name: str, row: sa.Row[Any], serving: int | None) -> TrainingVersion:
    """`row`: all but the models, and `artifact_bytes`, their size."""
    return TrainingVersion(
        name, row.version, row.summary, row.origin, row.judgement, row.created_ns, row.served_ns, row.version == serving,
        row.artifact_bytes,
    )  # fmt: skip


def training(name: str, row: sa.Row[Any], serving: int | None) -> TrainingRecord:
    return TrainingRecord(
        name, row.version, row.summary, row.origin, row.judgement, row.created_ns, row.served_ns, row.version == serving,
        len(row.artifact), row.artifact,
    )  # fmt: skip


def calibration(name: str, row: sa.Row[Any]) -> CalibrationRecord:
    return CalibrationRecord(name, row.version, row.calibration, row.created_ns, row.emulated_ns)


def profile(name: str, row: sa.Row[Any]) -> ProfileRecord:
    return ProfileRecord(name, row.version, row.profile, row.created_ns)


def event(row: sa.Row[Any]) -> EventRecord:
    return EventRecord(row.id, row.time_ns, row.network, row.kind, row.message, row.data)
