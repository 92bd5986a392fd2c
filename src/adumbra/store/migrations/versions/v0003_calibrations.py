"""What measured use said of a network's VMs, and when its stored time was emulated by it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "calibrations",
        sa.Column("id", _BIG_ID, autoincrement=True, nullable=False),
        sa.Column("network_id", _BIG_ID, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("calibration", sa.JSON, nullable=False),
        sa.Column("created_ns", sa.BigInteger, nullable=False),
        sa.Column("emulated_ns", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_calibrations"),
        sa.ForeignKeyConstraint(["network_id"], ["networks.id"], name="fk_calibrations_network_id", ondelete="CASCADE"),
        sa.UniqueConstraint("network_id", "version", name="uq_calibrations_network_id"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    op.drop_table("calibrations")
