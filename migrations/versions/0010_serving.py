"""Which models workers were ordered to serve, or not to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "serving",
        sa.Column("worker", sa.Text(), primary_key=True),
        sa.Column("model", sa.Text(), primary_key=True),
        sa.Column("serves", sa.Boolean(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("serving")
