"""Webhooks: endpoints, deliveries and their attempts, and who fails."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # None of these rewrites the table: it may be large, and in use.
    op.add_column("jobs", sa.Column("webhook_url", sa.Text()))
    op.add_column("jobs", sa.Column("webhook_target", sa.Text()))
    op.add_column("jobs", sa.Column("webhook_events", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text()),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("disabled", sa.Text()),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("old_secret", sa.Text()),
        sa.Column("old_secret_until", sa.BigInteger()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("disabled IN ('gone', 'failing', 'operator')", name="endpoints_disabled"),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.BigInteger()),
        sa.Column("token", sa.Text()),
        sa.Column("sender", sa.Text()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.BigInteger()),
        sa.Column("run_at", sa.BigInteger()),
        sa.Column("progress", sa.Double()),
        sa.UniqueConstraint("job_id", "endpoint", "seq", name="deliveries_event"),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="deliveries_state"),
        sa.CheckConstraint("(next_at IS NOT NULL) = (state = 'pending')", name="deliveries_due"),
    )
    pending, failed = sa.text("state = 'pending'"), sa.text("state = 'failed'")
    held = sa.text("token IS NOT NULL")
    columns = ["target", "next_at", "id"]
    op.create_index("deliveries_pending", "deliveries", columns, sqlite_where=pending, postgresql_where=pending)
    columns = ["endpoint", "id"]
    op.create_index("deliveries_failed", "deliveries", columns, sqlite_where=failed, postgresql_where=failed)
    op.create_index("deliveries_endpoint", "deliveries", columns)
    op.create_index("deliveries_held", "deliveries", ["sender"], sqlite_where=held, postgresql_where=held)
    op.create_table(
        "delivery_attempts",
        sa.Column("delivery_id", sa.BigInteger(), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.Text()),
        sa.Column("answer", sa.Text(), nullable=False),
    )
    op.create_table(
        "webhook_circuits",
        sa.Column("target", sa.Text(), primary_key=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("failing_since", sa.BigInteger(), nullable=False),
        sa.Column("open_until", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    for table in ("webhook_circuits", "delivery_attempts", "deliveries", "webhook_endpoints"):
        op.drop_table(table)
    for column in ("webhook_events", "webhook_target", "webhook_url"):
        op.drop_column("jobs", column)
