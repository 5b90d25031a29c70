"""How many jobs of a key may run at once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("running_jobs", sa.BigInteger()))
    bounded = sa.text("running_jobs IS NOT NULL")
    columns = ["id", "origin", "running_jobs"]
    op.create_index("api_keys_running", "api_keys", columns, sqlite_where=bounded, postgresql_where=bounded)


def downgrade() -> None:
    op.drop_index("api_keys_running", "api_keys")
    op.drop_column("api_keys", "running_jobs")
