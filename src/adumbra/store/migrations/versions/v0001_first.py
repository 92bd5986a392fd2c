"""The first tables: networks and their shadows, specs, observations, trainings, profiles, plans, and the events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _id() -> sa.Column[int]:
    return sa.Column("id", _BIG_ID, autoincrement=True, nullable=False)


def _network_id() -> sa.Column[int]:
    return sa.Column("network_id", _BIG_ID, nullable=False)


def _belongs_to_network(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["network_id"], ["networks.id"], name=f"fk_{table}_network_id", ondelete="CASCADE")


def upgrade() -> None:
    _make_networks()
    _make_observations()
    _make_learning()
    _make_plans()
    _make_events()


def _make_networks() -> None:
    op.create_table(
        "networks",
        _id(),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("spec_text", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("updated_ns", sa.BigInteger, nullable=False),
        sa.Column("spec_since_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_networks"),
        sa.UniqueConstraint("name", name="uq_networks_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "shadows",
        _id(),
        _network_id(),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_shadows"),
        sa.UniqueConstraint("network_id", name="uq_shadows_network_id"),
        _belongs_to_network("shadows"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "network_versions",
        _id(),
        _network_id(),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("spec_text", sa.Text, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("replaced_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_network_versions"),
        sa.UniqueConstraint("network_id", "version", name="uq_network_versions_network_id"),
        _belongs_to_network("network_versions"),
        sqlite_autoincrement=True,
    )


def _make_observations() -> None:
    op.create_table(
        "observations",
        _id(),
        _network_id(),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("accounts", sa.JSON, nullable=False),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("started_ns", sa.BigInteger, nullable=False),
        sa.Column("finished_ns", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_observations"),
        _belongs_to_network("observations"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_observations_state", "observations", ["state"])
    op.create_index("ix_observations_network_id_id", "observations", ["network_id", "id"])


def _make_learning() -> None:
    op.create_table(
        "trainings",
        _id(),
        _network_id(),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("summary", sa.JSON, nullable=False),
        sa.Column("artifact", sa.LargeBinary, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_trainings"),
        sa.UniqueConstraint("network_id", "version", name="uq_trainings_network_id"),
        _belongs_to_network("trainings"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "profiles",
        _id(),
        _network_id(),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("profile", sa.JSON, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_profiles"),
        sa.UniqueConstraint("network_id", "version", name="uq_profiles_network_id"),
        _belongs_to_network("profiles"),
        sqlite_autoincrement=True,
    )


def _make_plans() -> None:
    op.create_table(
        "plans",
        _id(),
        _network_id(),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("finished_ns", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_plans"),
        _belongs_to_network("plans"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_plans_state", "plans", ["state"])
    op.create_index("ix_plans_network_id_id", "plans", ["network_id", "id"])
    op.create_table(
        "plan_steps",
        _id(),
        sa.Column("plan_id", _BIG_ID, nullable=False),
        sa.Column("step_index", sa.Integer, nullable=False),
        sa.Column("outcome", sa.JSON, nullable=False),
        sa.Column("recorded_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_plan_steps"),
        sa.ForeignKeyConstraint(["plan_id"], ["plans.id"], name="fk_plan_steps_plan_id", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_plan_steps_plan_id_step_index_id", "plan_steps", ["plan_id", "step_index", "id"])


def _make_events() -> None:
    op.create_table(
        "events",
        _id(),
        sa.Column("time_ns", sa.BigInteger, nullable=False),
        sa.Column("network", sa.String(63), nullable=True),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_network_id", "events", ["network", "id"])


def downgrade() -> None:
    for table in ("events", "plan_steps", "plans", "profiles", "trainings", "observations", "network_versions", "shadows"):
        op.drop_table(table)
    op.drop_table("networks")
