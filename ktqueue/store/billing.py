"""What tenants used, written in the transaction that ends their jobs: exactly once, as the end itself is.

There is one row for each tenant, model and day. Whoever ends jobs adds to it with the last statement of his
transaction, so that nobody waits for that row longer than a commit takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from ktqueue.sql.clock import db_now
from ktqueue.sql.dialects import PerRow, insert_adding
from ktqueue.sql.tables import usage
from ktqueue.usage import DAY_MS, Bill, DayOfUse, UsageQuery, Use

_NAMES = [field.name for field in fields(Use)]
# Inline: nobody asks which day the database made it.
ADD = PerRow(insert_adding(usage).values(day=db_now() // DAY_MS).inline(), _NAMES)
_COLUMNS = [usage.c.day, *(usage.c[name] for name in _NAMES)]


def write(connection: sa.Connection, bill: Bill) -> None:
    """Add what jobs used that end in this transaction."""
    if uses := bill.uses():
        ADD(connection, [{name: getattr(use, name) for name in _NAMES} for use in uses])


def search(query: UsageQuery) -> sa.Select[Any]:
    """The statement for what was used, by day, tenant and model."""
    found = sa.select(*_COLUMNS).where(usage.c.day.between(query.first, query.last))
    if query.tenant is not None:
        found = found.where(usage.c.tenant == query.tenant)
    if query.model is not None:
        found = found.where(usage.c.model == query.model)
    return found.order_by(usage.c.day, usage.c.tenant, usage.c.model).limit(query.limit)


def day_of(row: Sequence[Any]) -> DayOfUse:
    """What one row of `search` says."""
    return DayOfUse(row[0], Use(*row[1:]))
