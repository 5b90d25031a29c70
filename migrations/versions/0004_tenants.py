"""Whose things are: tenants, their keys and limits; and what a job may cost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LANE = ["model", "rank", "id", "due_at", "state", "company", "size"]
WAITING = "state = 'queued' AND company IS NULL"
ENDED = "finished_at IS NOT NULL"


def upgrade() -> None:
    # None of these rewrites the table: it may be large, and in use. What code of before adds is the default tenant's.
    for table in ("jobs", "webhook_endpoints", "deliveries"):
        op.add_column(table, tenant())
    op.add_column("jobs", sa.Column("cost", sa.Integer(), nullable=False, server_default="1"))
    key_by("tenant", "key")
    op.drop_index("jobs_lane", "jobs")
    partial_index("jobs_lane", [*LANE, "tenant", "priority", "cost", "deadline_at"], WAITING)
    op.drop_index("jobs_finished", "jobs")
    partial_index("jobs_finished", ["tenant", "state", "id"], ENDED)
    op.drop_index("jobs_model", "jobs")
    op.create_index("jobs_tenant", "jobs", ["tenant", "id", "model"])
    op.create_index("endpoints_tenant", "webhook_endpoints", ["tenant", "id"])
    op.create_index("deliveries_tenant", "deliveries", ["tenant", "id"])
    op.create_table(
        "tenants",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("requests_per_minute", sa.BigInteger()),
        sa.Column("tokens_per_minute", sa.BigInteger()),
        sa.Column("queued_jobs", sa.BigInteger()),
        sa.Column("unfinished_jobs", sa.BigInteger()),
        sa.Column("queued_bytes", sa.BigInteger()),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), primary_key=True),
        sa.Column("prefix", sa.Text(), nullable=False, unique=True),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("salt", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger()),
        sa.Column("revoked_at", sa.BigInteger()),
        sa.Column("last_used_at", sa.BigInteger()),
        sa.Column("requests_per_minute", sa.BigInteger()),
        sa.Column("tokens_per_minute", sa.BigInteger()),
    )
    op.create_index("ix_api_keys_tenant", "api_keys", ["tenant"])


def tenant() -> sa.Column[str]:
    return sa.Column("tenant", sa.Text(), nullable=False, server_default="default")


def key_by(*columns: str) -> None:
    """Give idempotency_keys this primary key. SQLite can only make the table anew; these rows are small and short-lived."""
    if op.get_bind().dialect.name == "postgresql":
        if "tenant" in columns:
            op.add_column("idempotency_keys", tenant())
        op.drop_constraint("idempotency_keys_pkey", "idempotency_keys")
        op.create_primary_key("idempotency_keys_pkey", "idempotency_keys", list(columns))
        return
    op.drop_index("ix_idempotency_keys_job_id", "idempotency_keys")
    op.rename_table("idempotency_keys", "idempotency_keys_before")
    op.create_table(
        "idempotency_keys",
        *([tenant()] if "tenant" in columns else []),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(*columns),
    )
    op.execute(
        "INSERT INTO idempotency_keys (key, digest, job_id, created_at)"
        " SELECT key, digest, job_id, created_at FROM idempotency_keys_before"
    )
    op.drop_table("idempotency_keys_before")
    op.create_index("ix_idempotency_keys_job_id", "idempotency_keys", ["job_id"])


def partial_index(name: str, columns: list[str], where: str) -> None:
    op.create_index(name, "jobs", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    op.drop_table("api_keys")
    op.drop_table("tenants")
    op.drop_index("deliveries_tenant", "deliveries")
    op.drop_index("endpoints_tenant", "webhook_endpoints")
    op.drop_index("jobs_tenant", "jobs")
    op.create_index("jobs_model", "jobs", ["model", "id"])
    op.drop_index("jobs_finished", "jobs")
    partial_index("jobs_finished", ["state", "id"], ENDED)
    op.drop_index("jobs_lane", "jobs")
    partial_index("jobs_lane", LANE, WAITING)
    # A key that only another tenant used must not answer for the only tenant that is left.
    op.execute("DELETE FROM idempotency_keys WHERE tenant <> 'default'")
    key_by("key")
    if op.get_bind().dialect.name == "postgresql":
        op.drop_column("idempotency_keys", "tenant")
    op.drop_column("jobs", "cost")
    for table in ("deliveries", "webhook_endpoints", "jobs"):
        op.drop_column(table, "tenant")
