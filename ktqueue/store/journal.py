"""What tenants used, and how many bytes ended jobs take, each exactly once: with the transaction that changes it.

Whoever ends or deletes jobs enters what that adds up to into the journal, in one row, whoever they belong to. Rows are
posted later, many at once, to a row for each tenant, model and day (`usage`) and to one for each tenant and key
(`stored`, `stored_by_key`): by the sweep, and before anybody reads these. So a batch of a hundred tenants' jobs writes
no more rows than one tenant's, and no two workers ever wait for the same tenant's row.

Jobs that wait or run are counted from their own rows. Those that ended may be millions, so nobody counts them: what
one adds to the sum is written in its row, too, and just that is taken off when it is deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import add
from typing import Any, TypeAlias

import sqlalchemy as sa

from ktqueue.sql.clock import db_now
from ktqueue.sql.dialects import PerRow, insert_adding
from ktqueue.sql.tables import journal, stored, stored_by_key, usage
from ktqueue.usage import DAY_MS, Bill, DayOfUse, UsageQuery, Use

Size: TypeAlias = tuple[str, str | None, int]
"""A job's tenant, its key, and how many bytes it takes, or frees."""

ENTRIES = 100
"""So many are posted in one transaction: up to a tenth of a second, if each is of hundreds of tenants."""

_NAMES = [field.name for field in fields(Use)]
_OF_USAGE = ["day", *_NAMES]
_COLUMNS = [usage.c[name] for name in _OF_USAGE]

# Inline: nobody asks which day the database made it, or which number.
_ENTER = PerRow(sa.insert(journal).values(day=db_now() // DAY_MS).inline(), ["uses", "sizes"])
LAST = sa.select(sa.func.max(journal.c.id))
# One after the other: whoever finds entries that another posts waits until they are posted, and then reads the sums. As
# a common table, which PostgreSQL reads once.
_oldest = (
    sa.select(journal.c.id)
    .where(journal.c.id <= sa.bindparam("last", type_=sa.BigInteger))
    .order_by(journal.c.id)
    .limit(ENTRIES)
    .with_for_update()
    .cte("oldest")
)
_TAKE = (
    sa.delete(journal)
    .where(journal.c.id.in_(sa.select(_oldest.c.id)))
    .returning(journal.c.day, journal.c.uses, journal.c.sizes)
)
_ADD_USES = PerRow(insert_adding(usage), _OF_USAGE)
_ADD_BYTES = PerRow(insert_adding(stored), ["tenant", "bytes"])
_ADD_BYTES_BY_KEY = PerRow(insert_adding(stored_by_key), ["key", "bytes"])


def enter(connection: sa.Connection, sizes: Iterable[Size], bill: Bill | None = None) -> None:
    """Enter what jobs used that end in this transaction, and the bytes they take; below 0 where jobs are deleted."""
    tenants: Counter[str] = Counter()
    keys: Counter[str] = Counter()
    for tenant, key, size in sizes:
        tenants[tenant] += size
        if key is not None:
            keys[key] += size
    # By the order of their fields, of which new ones come last: an entry may be posted by another version.
    uses = [] if bill is None else bill.rows()
    if uses or tenants:
        _ENTER(connection, [{"uses": uses, "sizes": {"tenants": tenants, "keys": keys}}])


def post(connection: sa.Connection, last: int) -> bool:
    """Post ``ENTRIES`` of the oldest, none after the ``last``; whether there were any."""
    rows = connection.execute(_TAKE, {"last": last}).all()
    uses: dict[tuple[int, str, str], Sequence[float]] = {}
    tenants: Counter[str] = Counter()
    keys: Counter[str] = Counter()
    for day, used, sizes in rows:
        for tenant, model, *numbers in used:
            whose = day, tenant, model
            uses[whose] = list(map(add, uses[whose], numbers)) if whose in uses else numbers
        tenants.update(sizes["tenants"])
        keys.update(sizes["keys"])
    # In their order, so no two transactions wait for each other's rows.
    if uses:
        _ADD_USES(connection, [dict(zip(_OF_USAGE, [*whose, *uses[whose]], strict=True)) for whose in sorted(uses)])
    if bytes_of := [{"tenant": tenant, "bytes": size} for tenant, size in sorted(tenants.items()) if size]:
        _ADD_BYTES(connection, bytes_of)
    if bytes_of := [{"key": key, "bytes": size} for key, size in sorted(keys.items()) if size]:
        _ADD_BYTES_BY_KEY(connection, bytes_of)
    return bool(rows)


def search(query: UsageQuery) -> sa.Select[Any]:
    """The statement for what was used, by day, tenant and model; of what is posted."""
    found = sa.select(*_COLUMNS).where(usage.c.day.between(query.first, query.last))
    if query.tenant is not None:
        found = found.where(usage.c.tenant == query.tenant)
    if query.model is not None:
        found = found.where(usage.c.model == query.model)
    return found.order_by(usage.c.day, usage.c.tenant, usage.c.model).limit(query.limit)


def day_of(row: Sequence[Any]) -> DayOfUse:
    """What one row of `search` says."""
    return DayOfUse(row[0], Use(*row[1:]))
