"""How many bytes ended jobs take: a sum a tenant and a sum a key, kept by whoever ends or deletes jobs, as he does.

Jobs that wait or run are counted from their own rows. Those that ended may be millions, so nobody counts them: what
one adds to the sum is written in its row, too, and just that is taken off when it is deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeAlias

import sqlalchemy as sa

from ktqueue.sql.dialects import PerRow, insert_adding
from ktqueue.sql.tables import stored, stored_by_key

Size: TypeAlias = tuple[str, str | None, int]
"""A job's tenant, its key, and how many bytes it takes, or frees."""

ADD = PerRow(insert_adding(stored), ["tenant", "bytes"])
ADD_BY_KEY = PerRow(insert_adding(stored_by_key), ["key", "bytes"])


def add(connection: sa.Connection, sizes: Iterable[Size]) -> None:
    """Add these bytes; below 0 where jobs are deleted. The last statements of the transaction."""
    tenants: Counter[str] = Counter()
    keys: Counter[str] = Counter()
    for tenant, key, size in sizes:
        tenants[tenant] += size
        if key is not None:
            keys[key] += size
    # In their order, so no two transactions wait for each other's rows.
    if rows := [{"tenant": tenant, "bytes": size} for tenant, size in sorted(tenants.items()) if size]:
        ADD(connection, rows)
    if rows := [{"key": key, "bytes": size} for key, size in sorted(keys.items()) if size]:
        ADD_BY_KEY(connection, rows)
