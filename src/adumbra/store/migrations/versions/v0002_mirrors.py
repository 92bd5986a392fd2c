"""The mirrors of this host: what was planned, before anything was touched."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "mirrors",
        sa.Column("id", _BIG_ID, autoincrement=True, nullable=False),
        sa.Column("network_id", _BIG_ID, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("plan", sa.JSON, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("updated_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_mirrors"),
        sa.ForeignKeyConstraint(["network_id"], ["networks.id"], name="fk_mirrors_network_id", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_mirrors_network_id_id", "mirrors", ["network_id", "id"])


def downgrade() -> None:
    op.drop_table("mirrors")
