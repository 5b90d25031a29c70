"""What was used and is stored is entered first, and added up later."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

SUMS = (
    "succeeded", "failed", "cancelled", "expired", "prompt_tokens", "completion_tokens", "device_seconds",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "journal",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("uses", sa.JSON(), nullable=False),
        sa.Column("sizes", sa.JSON(), nullable=False),
    )


def downgrade() -> None:
    post()
    op.drop_table("journal")


def post() -> None:
    """Add up what is entered, or it would be lost."""
    connection = op.get_bind()
    uses = adding("usage", ("day", "tenant", "model"), SUMS)
    tenants, keys = adding("stored", ("tenant",), ("bytes",)), adding("stored_by_key", ("key",), ("bytes",))
    entries = sa.table("journal", sa.column("day"), sa.column("uses", sa.JSON), sa.column("sizes", sa.JSON))
    for day, used, sizes in connection.execute(sa.select(entries)).all():
        for tenant, model, *sums in used:
            whose = {"day": day, "tenant": tenant, "model": model}
            connection.execute(uses, whose | dict(zip(SUMS, sums, strict=True)))
        for statement, name in ((tenants, "tenant"), (keys, "key")):
            for whose, size in sizes[f"{name}s"].items():
                connection.execute(statement, {name: whose, "bytes": size})


def adding(table: str, whose: tuple[str, ...], sums: tuple[str, ...]) -> sa.TextClause:
    """INSERT, or add to the sums that are there."""
    names = (*whose, *sums)
    values = ", ".join(f":{name}" for name in names)
    changes = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in sums)
    columns = ", ".join(names)
    return sa.text(
        f"INSERT INTO {table} ({columns}) VALUES ({values}) ON CONFLICT ({', '.join(whose)}) DO UPDATE SET {changes}"  # noqa: S608 - of names above
    )
