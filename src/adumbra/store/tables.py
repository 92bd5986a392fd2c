"""The tables of the state store, as the newest migration leaves them. Declares; connects to nothing.

A change here needs a migration beside it: a test compares the two.
"""

from __future__ import annotations

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


def _time(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


networks = _table(
    "networks",
    sa.Column("name", sa.String(63), nullable=False, unique=True),
    sa.Column("spec_text", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    _time("created_ns"),
    _time("updated_ns"),
    _time("spec_since_ns"),
    sa.Column("training_last", sa.Integer, nullable=True),
    sa.Column("training_serving", sa.Integer, nullable=True),
    sa.Column("spec_json", sa.Text, nullable=True),
)

shadows = _table("shadows", _of_network(), _time("created_ns"), sa.UniqueConstraint("network_id"))

network_versions = _table(
    "network_versions",
    _of_network(),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("spec_text", sa.Text, nullable=False),
    _time("created_ns"),
    _time("replaced_ns"),
    sa.UniqueConstraint("network_id", "version"),
)

observations = _table(
    "observations",
    _of_network(),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("accounts", sa.JSON, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    _time("started_ns"),
    _time("finished_ns", nullable=True),
    sa.Index(None, "network_id", "id"),
)

trainings = _table(
    "trainings",
    _of_network(),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("summary", sa.JSON, nullable=False),
    sa.Column("artifact", sa.LargeBinary, nullable=False),
    _time("created_ns"),
    sa.Column("origin", sa.JSON, nullable=True),
    sa.Column("judgement", sa.JSON, nullable=True),
    _time("served_ns", nullable=True),
    sa.UniqueConstraint("network_id", "version"),
)

calibrations = _table(
    "calibrations",
    _of_network(),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("calibration", sa.JSON, nullable=False),
    _time("created_ns"),
    _time("emulated_ns", nullable=True),
    sa.UniqueConstraint("network_id", "version"),
)

profiles = _table(
    "profiles",
    _of_network(),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("profile", sa.JSON, nullable=False),
    _time("created_ns"),
    sa.UniqueConstraint("network_id", "version"),
)

plans = _table(
    "plans",
    _of_network(),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("plan", sa.JSON, nullable=False),
    _time("created_ns"),
    _time("finished_ns", nullable=True),
    sa.Index(None, "network_id", "id"),
)

plan_steps = _table(
    "plan_steps",
    sa.Column("plan_id", BigId, sa.ForeignKey("plans.id", ondelete="CASCADE"), nullable=False),
    sa.Column("step_index", sa.Integer, nullable=False),
    sa.Column("outcome", sa.JSON, nullable=False),
    _time("recorded_ns"),
    sa.Index(None, "plan_id", "step_index", "id"),
)

mirrors = _table(
    "mirrors",
    _of_network(),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("plan", sa.JSON, nullable=False),
    _time("created_ns"),
    _time("updated_ns"),
    sa.Index(None, "network_id", "id"),
)

events = _table(
    "events",
    _time("time_ns"),
    sa.Column("network", sa.String(63), nullable=True),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Index(None, "network", "id"),
)

tokens = _table(
    "tokens",
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("networks", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("once", sa.Boolean, nullable=False),
    _time("created_ns"),
    _time("expires_ns", nullable=True),
    _time("revoked_ns", nullable=True),
    _time("used_ns", nullable=True),
)

users = _table(
    "users",
    sa.Column("name", sa.String(63), nullable=False, unique=True),
    sa.Column("password", sa.Text, nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("networks", sa.JSON(none_as_null=True), nullable=True),
    _time("created_ns"),
    _time("disabled_ns", nullable=True),
    sa.Column("external", sa.String(400), nullable=True, unique=True),
)

sessions = _table(
    "sessions",
    sa.Column("user_id", BigId, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("csrf", sa.String(64), nullable=False),
    _time("created_ns"),
    _time("expires_ns"),
)

acts = _table(
    "acts",
    _time("time_ns"),
    sa.Column("who", sa.String(63), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("through", sa.String(16), nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("network", sa.String(63), nullable=True),
    sa.Column("key", sa.String(400), nullable=True, unique=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("asked", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("before", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("after", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("by_id", sa.BigInteger, nullable=True),
    sa.Index(None, "network", "id"),
)

jobs = _table(
    "jobs",
    _of_network(),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("asked", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("share", sa.Float, nullable=True),
    sa.Column("doing", sa.Text, nullable=False),
    sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("trouble", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("by", sa.String(63), nullable=False),
    _time("created_ns"),
    _time("started_ns", nullable=True),
    _time("finished_ns", nullable=True),
    sa.Index(None, "network_id", "id"),
)

sources = _table(
    "sources",
    _of_network(),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("place", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("instance", sa.String(64), nullable=False),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("restarts", sa.Integer, nullable=False),
    sa.Column("trouble", sa.Text, nullable=False),
    sa.Column("accounts", sa.JSON, nullable=False),
    _time("created_ns"),
    _time("seen_ns", nullable=True),
    _time("next_ns", nullable=True),
    sa.Index(None, "network_id", "id"),
)

shipments = _table(
    "shipments",
    _of_network(),
    sa.Column("instance", sa.String(64), nullable=False),
    _time("start_ns"),
    _time("end_ns"),
    sa.Column("settled", sa.Boolean, nullable=False),
    _time("told_ns"),
    sa.Index(None, "network_id", "end_ns"),
)

tap_overlaps = _table(
    "tap_overlaps",
    _of_network(),
    sa.Column("first", sa.String(64), nullable=False),
    sa.Column("later", sa.String(64), nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("about", sa.Text, nullable=False),
    _time("since_ns"),
    _time("seen_ns"),
    sa.UniqueConstraint("network_id", "first", "later"),
)
