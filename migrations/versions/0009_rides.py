"""What a job had of the steps of each of its attempts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("ride", sa.JSON()))
    op.add_column("attempts", sa.Column("device_s", sa.Double()))
    op.add_column("attempts", sa.Column("ride", sa.JSON()))


def downgrade() -> None:
    op.drop_column("attempts", "ride")
    op.drop_column("attempts", "device_s")
    op.drop_column("jobs", "ride")
