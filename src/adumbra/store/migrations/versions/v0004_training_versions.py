"""Which of a network's trainings serves, which numbers were given out, and what each was learned from and judged by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_NEWEST = "(SELECT max(version) FROM trainings WHERE trainings.network_id = networks.id)"


def upgrade() -> None:
    op.add_column("networks", sa.Column("training_last", sa.Integer, nullable=True))
    op.add_column("networks", sa.Column("training_serving", sa.Integer, nullable=True))
    op.add_column("trainings", sa.Column("origin", sa.JSON, nullable=True))
    op.add_column("trainings", sa.Column("judgement", sa.JSON, nullable=True))
    op.add_column("trainings", sa.Column("served_ns", sa.BigInteger, nullable=True))
    # Until now the newest served, each from when it was made.
    op.execute(f"UPDATE networks SET training_last = {_NEWEST}, training_serving = {_NEWEST}")  # noqa: S608 a constant
    op.execute("UPDATE trainings SET served_ns = created_ns")


def downgrade() -> None:
    for column in ("served_ns", "judgement", "origin"):
        op.drop_column("trainings", column)
    for column in ("training_serving", "training_last"):
        op.drop_column("networks", column)
