"""How many more jobs may run: counted in the transaction that claims them, which alone decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from ktqueue.job import JobState, owners_of
from ktqueue.sql.dialects import among
from ktqueue.sql.tables import is_state, jobs
from ktqueue.store.base import Quota
from ktqueue.store.limits import as_many_as_may, left_of
from ktqueue.store.statements import still

_running = is_state(JobState.RUNNING)

COUNT_RUNNING = sa.select(sa.func.count()).select_from(jobs).where(_running, jobs.c.model == sa.bindparam("lane"))
OWNERS_OF = sa.select(jobs.c.id, jobs.c.tenant, jobs.c.key).where(among(jobs.c.id), still(JobState.QUEUED))
# In words that match no other index than that of what runs.
_tenant = (jobs.c.tenant + "").label("tenant")
RUNNING_BY_OWNER = (
    sa.select(_tenant, jobs.c.key, sa.func.count().label("jobs")).where(_running).group_by(_tenant, jobs.c.key)
)
# SQLite's writers take turns anyway. Held until the transaction ends.
TAKE_TURN = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(sa.bindparam("lane", type_=sa.Text), 0)))
# Another seed, so that no lane's lock is this one. It is taken after a lane's.
TAKE_TURN_OF_OWNERS = sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended("tenants", 1)))


def within(connection: sa.Connection, ids: Sequence[str], quota: Quota | None) -> list[str]:
    """Those of ``ids``, in their order, that a quota leaves room for."""
    if quota is None:
        return list(ids)
    first = list(dict.fromkeys(ids))[: left_of_lane(connection, quota)]
    if not quota.owners:
        return first
    owners = {row.id: owners_of(row.tenant, row.key) for row in connection.execute(OWNERS_OF, {"ids": first})}
    if all(quota.owners.keys().isdisjoint(theirs) for theirs in owners.values()):
        return first
    left = left_of_owners(connection, quota.owners, to_claim=True)
    return as_many_as_may([(job_id, owners[job_id]) for job_id in first if job_id in owners], left)


def left_of_lane(connection: sa.Connection, quota: Quota) -> int | None:
    """How many more of a lane may run; no other claim with a quota changes that before this one is committed."""
    if quota.most is None:
        return None
    if connection.dialect.name == "postgresql":
        connection.execute(TAKE_TURN, {"lane": quota.model})
    running: int = connection.execute(COUNT_RUNNING, {"lane": quota.model}).scalar_one()
    return max(0, quota.most - running)


def left_of_owners(connection: sa.Connection, owners: Mapping[str, int], *, to_claim: bool = False) -> dict[str, int]:
    """How many more jobs of these tenants and keys may run.

    If it is ``to_claim`` some, no other claim changes that before this one is committed.
    """
    if not owners:
        return {}
    if to_claim and connection.dialect.name == "postgresql":
        connection.execute(TAKE_TURN_OF_OWNERS)
    return left_of(owners, running_by_owner(connection))


def running_by_owner(connection: sa.Connection) -> dict[str, int]:
    """How many jobs run of each tenant, and of each key, of which any does."""
    running: Counter[str] = Counter()
    for row in connection.execute(RUNNING_BY_OWNER):
        for owner in owners_of(row.tenant, row.key):
            running[owner] += row.jobs
    return running


def full(left: Mapping[str, int]) -> list[str]:
    """Those of whom no more may run."""
    return [owner for owner, more in left.items() if more <= 0]
