"""Policies of networks; of plans, who decided on one that waited for approval, and when."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("id", _BIG_ID, autoincrement=True, nullable=False),
        sa.Column("network_id", _BIG_ID, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("policy_text", sa.Text, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_policies"),
        sa.ForeignKeyConstraint(["network_id"], ["networks.id"], name="fk_policies_network_id", ondelete="CASCADE"),
        sa.UniqueConstraint("network_id", "version", name="uq_policies_network_id"),
        sqlite_autoincrement=True,
    )
    op.add_column("plans", sa.Column("decided_by", sa.String(63), nullable=True))
    op.add_column("plans", sa.Column("decided_ns", sa.BigInteger, nullable=True))


def downgrade() -> None:
    op.drop_column("plans", "decided_ns")
    op.drop_column("plans", "decided_by")
    op.drop_table("policies")
