"""What jobs of a key take, and may take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

COUNTS = ("queued_jobs", "unfinished_jobs", "queued_bytes", "stored_bytes")
LANE = ("model", "rank", "id", "due_at", "state", "company", "size", "tenant", "priority", "cost", "deadline_at")
RUNNING = ("model", "tenant", "state")


def upgrade() -> None:
    # Jobs that came before count for no key.
    op.add_column("jobs", sa.Column("key", sa.Text()))
    index("key")
    op.create_table(
        "stored_by_key",
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
    )
    for name in COUNTS:
        op.add_column("api_keys", sa.Column(name, sa.BigInteger()))
    op.add_column("api_keys", sa.Column("origin", sa.Text()))


def index(*along: str) -> None:
    """Make the indexes of what waits and of what runs anew, with these columns along."""
    op.drop_index("jobs_lane", "jobs")
    op.drop_index("jobs_running", "jobs")
    lane, running = sa.text("state = 'queued' AND company IS NULL"), sa.text("state = 'running'")
    op.create_index("jobs_lane", "jobs", [*LANE, *along], sqlite_where=lane, postgresql_where=lane)
    op.create_index("jobs_running", "jobs", [*RUNNING, *along], sqlite_where=running, postgresql_where=running)


def downgrade() -> None:
    op.drop_column("api_keys", "origin")
    for name in COUNTS:
        op.drop_column("api_keys", name)
    op.drop_table("stored_by_key")
    index()
    op.drop_column("jobs", "key")
