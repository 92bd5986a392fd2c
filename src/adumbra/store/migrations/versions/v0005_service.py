"""Those who may act and what they did, jobs, and the sources that a server observes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("networks", sa.Column("spec_json", sa.Text, nullable=True))
    _make(
        "tokens", _text("name", 63), _text("hash", 64), _text("role", 16), _json("networks", nullable=True),
        sa.Column("once", sa.Boolean, nullable=False), _time("created_ns"), _time("expires_ns", nullable=True),
        _time("revoked_ns", nullable=True), _time("used_ns", nullable=True),
        sa.UniqueConstraint("hash", name="uq_tokens_hash"),
    )  # fmt: skip
    _make(
        "users", _text("name", 63), _text("password"), _text("role", 16), _json("networks", nullable=True),
        _time("created_ns"), _time("disabled_ns", nullable=True), _text("external", 400, nullable=True),
        sa.UniqueConstraint("name", name="uq_users_name"), sa.UniqueConstraint("external", name="uq_users_external"),
    )  # fmt: skip
    _make(
        "sessions", sa.Column("user_id", _BIG_ID, nullable=False), _text("hash", 64), _text("csrf", 64), _time("created_ns"),
        _time("expires_ns"), sa.UniqueConstraint("hash", name="uq_sessions_hash"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_sessions_user_id", ondelete="CASCADE"),
    )  # fmt: skip
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    _make(
        "acts", _time("time_ns"), _text("who", 63), _text("role", 16), _text("through", 16), _text("origin"), _text("what"),
        _text("network", 63, nullable=True), _text("key", 400, nullable=True), _text("fingerprint", 64),
        _json("asked", nullable=True), _json("before", nullable=True), _json("after", nullable=True), _text("subject"),
        sa.Column("by_id", sa.BigInteger, nullable=True),
        sa.UniqueConstraint("key", name="uq_acts_key"),
    )  # fmt: skip
    op.create_index("ix_acts_network_id", "acts", ["network", "id"])
    _make(
        "jobs", *_of_network("jobs"), _text("kind", 16), _json("asked"), _text("state", 16),
        sa.Column("share", sa.Float, nullable=True), _text("doing"), _json("result", nullable=True), _text("trouble"),
        sa.Column("attempts", sa.Integer, nullable=False), _text("process"), _text("by", 63), _time("created_ns"),
        _time("started_ns", nullable=True), _time("finished_ns", nullable=True),
    )  # fmt: skip
    _make(
        "sources", *_of_network("sources"), _text("source"), _json("options"), _text("place", 16), _text("state", 16),
        _text("instance", 64), _text("process"), _text("host"), sa.Column("restarts", sa.Integer, nullable=False),
        _text("trouble"), _json("accounts"), _time("created_ns"), _time("seen_ns", nullable=True),
        _time("next_ns", nullable=True),
    )  # fmt: skip
    _make(
        "shipments", *_of_network("shipments"), _text("instance", 64), _time("start_ns"), _time("end_ns"),
        sa.Column("settled", sa.Boolean, nullable=False), _time("told_ns"),
    )  # fmt: skip
    op.create_index("ix_shipments_network_id_end_ns", "shipments", ["network_id", "end_ns"])
    _make(
        "tap_overlaps", *_of_network("tap_overlaps"), _text("first", 64), _text("later", 64),
        sa.Column("rows", sa.BigInteger, nullable=False), _text("about"), _time("since_ns"), _time("seen_ns"),
        sa.UniqueConstraint("network_id", "first", "later", name="uq_tap_overlaps_network_id"),
    )  # fmt: skip
    for table in ("jobs", "sources"):
        op.create_index(f"ix_{table}_network_id_id", table, ["network_id", "id"])
        op.create_index(f"ix_{table}_state", table, ["state"])


def downgrade() -> None:
    for table in ("tap_overlaps", "shipments", "sources", "jobs", "acts", "sessions", "users", "tokens"):
        op.drop_table(table)
    op.drop_column("networks", "spec_json")


def _make(name: str, *columns: sa.schema.SchemaItem) -> None:
    number = sa.Column("id", _BIG_ID, autoincrement=True, nullable=False)
    op.create_table(name, number, *columns, sa.PrimaryKeyConstraint("id", name=f"pk_{name}"), sqlite_autoincrement=True)


def _of_network(table: str) -> tuple[sa.schema.SchemaItem, ...]:
    key = sa.ForeignKeyConstraint(["network_id"], ["networks.id"], name=f"fk_{table}_network_id", ondelete="CASCADE")
    return sa.Column("network_id", _BIG_ID, nullable=False), key


def _text(name: str, most: int | None = None, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.String(most) if most else sa.Text(), nullable=nullable)


def _json(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.JSON, nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)
