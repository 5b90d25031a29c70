"""How many bytes a tenant's jobs take, and may take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Jobs that ended before are not counted, neither now nor when they are deleted: to weigh them would rewrite them.
    op.add_column("jobs", sa.Column("stored", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "stored",
        sa.Column("tenant", sa.Text(), primary_key=True),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
    )
    op.add_column("tenants", sa.Column("stored_bytes", sa.BigInteger()))


def downgrade() -> None:
    op.drop_column("tenants", "stored_bytes")
    op.drop_table("stored")
    op.drop_column("jobs", "stored")
