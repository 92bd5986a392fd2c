"""The tables of the state store, as the newest migration leaves them. Declares; connects to nothing.

A change here needs a migration beside it: a test compares the two.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

METADATA = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
"""SQLite numbers rows by itself only where the type is spelt INTEGER."""


def _table(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    """A table with a row number that is never given out twice, not even after a deletion."""
    return sa.Table(
        name, METADATA, sa.Column("id", BigId, primary_key=True, autoincrement=True), *columns, sqlite_autoincrement=True
    )


def _of_network() -> sa.Column[int]:
    return sa.Column("network_id", BigId, sa.ForeignKey("networks.id", ondelete="CASCADE"), nullable=False)


def _of_versions(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    """A table of what a network has in versions, each of them once."""
    version = sa.Column("version", sa.Integer, nullable=False)
    return _table(name, _of_network(), version, *columns, _time("created_ns"), sa.UniqueConstraint("network_id", "version"))


def _in_sequence(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    """A table of what comes to a network one after the other; the newest are asked for."""
    return _table(name, _of_network(), *columns, sa.Index(None, "network_id", "id"))


def _state(*, indexed: bool = True) -> sa.Column[str]:
    return sa.Column("state", sa.String(16), nullable=False, index=indexed)


def _text(name: str, letters: int | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text if letters is None else sa.String(letters), nullable=False)


def _plain(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    """Plain data, as JSON. None is no data where there need be none."""
    return sa.Column(name, sa.JSON(none_as_null=nullable), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


networks = _table(
    "networks",
    sa.Column("name", sa.String(63), nullable=False, unique=True),
    _text("spec_text"),
    sa.Column("version", sa.Integer, nullable=False),
    _state(indexed=False),
    _time("created_ns"),
    _time("updated_ns"),
    _time("spec_since_ns"),
    sa.Column("training_last", sa.Integer, nullable=True),
    sa.Column("training_serving", sa.Integer, nullable=True),
    sa.Column("spec_json", sa.Text, nullable=True),
)

shadows = _table("shadows", _of_network(), _time("created_ns"), sa.UniqueConstraint("network_id"))

network_versions = _of_versions("network_versions", _text("spec_text"), _time("replaced_ns"))

observations = _in_sequence(
    "observations",
    _text("source"),
    _text("fingerprint"),
    _state(),
    _plain("accounts"),
    _text("process"),
    _time("started_ns"),
    _time("finished_ns", nullable=True),
)

trainings = _of_versions(
    "trainings",
    _plain("summary"),
    sa.Column("artifact", sa.LargeBinary, nullable=False),
    _plain("origin", nullable=True),
    _plain("judgement", nullable=True),
    _time("served_ns", nullable=True),
)

calibrations = _of_versions("calibrations", _plain("calibration"), _time("emulated_ns", nullable=True))

profiles = _of_versions("profiles", _plain("profile"))

policies = _of_versions("policies", _text("policy_text"))

plans = _in_sequence(
    "plans",
    _state(),
    _plain("plan"),
    _time("created_ns"),
    _time("finished_ns", nullable=True),
    sa.Column("decided_by", sa.String(63), nullable=True),
    _time("decided_ns", nullable=True),
)

plan_steps = _table(
    "plan_steps",
    sa.Column("plan_id", BigId, sa.ForeignKey("plans.id", ondelete="CASCADE"), nullable=False),
    sa.Column("step_index", sa.Integer, nullable=False),
    _plain("outcome"),
    _time("recorded_ns"),
    sa.Index(None, "plan_id", "step_index", "id"),
)

mirrors = _in_sequence(
    "mirrors",
    _state(indexed=False),
    _plain("plan"),
    _time("created_ns"),
    _time("updated_ns"),
)

events = _table(
    "events",
    _time("time_ns"),
    sa.Column("network", sa.String(63), nullable=True),
    _text("kind", 64),
    _text("message"),
    _plain("data"),
    sa.Index(None, "network", "id"),
)

tokens = _table(
    "tokens",
    _text("name", 63),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    _text("role", 16),
    _plain("networks", nullable=True),
    sa.Column("once", sa.Boolean, nullable=False),
    _time("created_ns"),
    _time("expires_ns", nullable=True),
    _time("revoked_ns", nullable=True),
    _time("used_ns", nullable=True),
)

users = _table(
    "users",
    sa.Column("name", sa.String(63), nullable=False, unique=True),
    _text("password"),
    _text("role", 16),
    _plain("networks", nullable=True),
    _time("created_ns"),
    _time("disabled_ns", nullable=True),
    sa.Column("external", sa.String(400), nullable=True, unique=True),
)

sessions = _table(
    "sessions",
    sa.Column("user_id", BigId, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    _text("csrf", 64),
    _time("created_ns"),
    _time("expires_ns"),
)

acts = _table(
    "acts",
    _time("time_ns"),
    _text("who", 63),
    _text("role", 16),
    _text("through", 16),
    _text("origin"),
    _text("what"),
    sa.Column("network", sa.String(63), nullable=True),
    sa.Column("key", sa.String(400), nullable=True, unique=True),
    _text("fingerprint", 64),
    _plain("asked", nullable=True),
    _plain("before", nullable=True),
    _plain("after", nullable=True),
    _text("subject"),
    sa.Column("by_id", sa.BigInteger, nullable=True),
    sa.Index(None, "network", "id"),
)

jobs = _in_sequence(
    "jobs",
    _text("kind", 16),
    _plain("asked"),
    _state(),
    sa.Column("share", sa.Float, nullable=True),
    _text("doing"),
    _plain("result", nullable=True),
    _text("trouble"),
    sa.Column("attempts", sa.Integer, nullable=False),
    _text("process"),
    _text("by", 63),
    _time("created_ns"),
    _time("started_ns", nullable=True),
    _time("finished_ns", nullable=True),
)

sources = _in_sequence(
    "sources",
    _text("source"),
    _plain("options"),
    _text("place", 16),
    _state(),
    _text("instance", 64),
    _text("process"),
    _text("host"),
    sa.Column("restarts", sa.Integer, nullable=False),
    _text("trouble"),
    _plain("accounts"),
    _time("created_ns"),
    _time("seen_ns", nullable=True),
    _time("next_ns", nullable=True),
)

shipments = _table(
    "shipments",
    _of_network(),
    _text("instance", 64),
    _time("start_ns"),
    _time("end_ns"),
    sa.Column("settled", sa.Boolean, nullable=False),
    _time("told_ns"),
    sa.Index(None, "network_id", "end_ns"),
)

tap_overlaps = _table(
    "tap_overlaps",
    _of_network(),
    _text("first", 64),
    _text("later", 64),
    sa.Column("rows", sa.BigInteger, nullable=False),
    _text("about"),
    _time("since_ns"),
    _time("seen_ns"),
    sa.UniqueConstraint("network_id", "first", "later"),
)
