"""Jobs that succeeded are in no index of those that have ended: it cost more to write than it saved to read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

UNSUCCESSFUL = "finished_at IS NOT NULL AND state != 'succeeded'"


def upgrade() -> None:
    partial_index("jobs_unsuccessful", UNSUCCESSFUL)
    op.drop_index("jobs_finished", "jobs")


def downgrade() -> None:
    partial_index("jobs_finished", "finished_at IS NOT NULL")
    op.drop_index("jobs_unsuccessful", "jobs")


def partial_index(name: str, where: str) -> None:
    columns = ["tenant", "state", "id"]
    op.create_index(name, "jobs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
