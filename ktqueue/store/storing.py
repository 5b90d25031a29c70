"""How many bytes the ended jobs of each tenant take: one sum, kept by whoever ends or deletes jobs, in his transaction.

Jobs that wait or run are counted from their own rows. Those that ended may be millions, so nobody counts them: what
one adds to the sum is written in its row, too, and just that is taken off when it is deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import sqlalchemy as sa

from ktqueue.sql.dialects import PerRow, insert_adding
from ktqueue.sql.tables import stored

ADD = PerRow(insert_adding(stored), [column.name for column in stored.c])


def add(connection: sa.Connection, sizes: Iterable[tuple[str, int]]) -> None:
    """Add these bytes to those of their tenants; below 0 where jobs are deleted. The transaction's last statement."""
    sums: Counter[str] = Counter()
    for tenant, size in sizes:
        sums[tenant] += size
    # In their order, so no two transactions wait for each other's rows.
    if rows := [{"tenant": tenant, "bytes": size} for tenant, size in sorted(sums.items()) if size]:
        ADD(connection, rows)
