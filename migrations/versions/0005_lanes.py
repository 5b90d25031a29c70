"""What operators have ordered of lanes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lanes",
        sa.Column("model", sa.Text(), primary_key=True),
        sa.Column("mode", sa.Text(), nullable=False, server_default="open"),
        sa.Column("concurrency", sa.Integer()),
        sa.CheckConstraint("mode IN ('open', 'paused', 'draining')", name="lanes_mode"),
        sa.CheckConstraint("concurrency > 0", name="lanes_concurrency"),
    )


def downgrade() -> None:
    op.drop_table("lanes")
