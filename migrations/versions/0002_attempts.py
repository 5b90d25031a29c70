"""Attempts as rows, suspects of a crash, and the size of a job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

OUTCOMES = "'running', 'succeeded', 'failed', 'cancelled', 'expired', 'crashed', 'lease_lost', 'given_back'"


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Text(), primary_key=True),
        sa.Column("claim", sa.Integer(), primary_key=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("charged", sa.Boolean(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("error", sa.JSON()),
        sa.CheckConstraint(f"outcome IN ({OUTCOMES})", name="attempts_outcome"),
    )
    # Neither of these rewrites the table: it may be large, and in use.
    op.add_column("jobs", sa.Column("company", sa.Integer()))
    op.add_column("jobs", sa.Column("crashes", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("size", sa.Integer(), nullable=False, server_default="0"))
    op.drop_index("jobs_lane", "jobs")
    columns = ["model", "rank", "id", "due_at", "state", "company", "size"]
    partial_index("jobs_lane", columns, "state = 'queued' AND company IS NULL")
    columns = ["model", "company", "rank", "id"]
    partial_index("jobs_suspects", columns, "state = 'queued' AND company IS NOT NULL")


def partial_index(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "jobs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    op.drop_index("jobs_suspects", "jobs")
    op.drop_index("jobs_lane", "jobs")
    op.drop_column("jobs", "size")
    op.drop_column("jobs", "crashes")
    op.drop_column("jobs", "company")
    partial_index("jobs_lane", ["model", "rank", "id", "due_at", "state"], "state = 'queued'")
    op.drop_table("attempts")
