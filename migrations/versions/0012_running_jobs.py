"""How many jobs of a tenant may run at once, and the index by which they are counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenants", sa.Column("running_jobs", sa.BigInteger()))
    op.drop_index("jobs_running", "jobs")
    index_running("model", "tenant", "state")


def index_running(*columns: str) -> None:
    where = sa.text("state = 'running'")
    op.create_index("jobs_running", "jobs", [*columns], sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    op.drop_index("jobs_running", "jobs")
    index_running("model")
    op.drop_column("tenants", "running_jobs")
