"""The statements that count what waits and what runs: by lane, by tenant and by key.

Each part is answered by an index of its own.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ktqueue.job import JobState
from ktqueue.sql.clock import db_now
from ktqueue.sql.tables import is_state, jobs, stored, stored_by_key

_queued, _running = is_state(JobState.QUEUED), is_state(JobState.RUNNING)
_due = jobs.c.due_at <= db_now()


def _counts(*where: sa.ColumnElement[bool], **counts: sa.ColumnElement[int]) -> sa.Select[tuple[object, ...]]:
    """A row a model with the ``counts`` that this part of its jobs gives; the others are nothing."""
    nothing = sa.literal_column("0", sa.BigInteger)
    columns = (counts.get(name, nothing).label(name) for name in ("queued", "due", "suspects", "running", "size"))
    oldest = sa.func.min(sa.case((_due, jobs.c.due_at))) if "due" in counts else sa.cast(sa.null(), sa.BigInteger)
    return sa.select(jobs.c.model, *columns, oldest.label("oldest_due_at")).where(*where).group_by(jobs.c.model)


_all, _those_due = sa.func.count(), sa.func.count(sa.case((_due, 1)))
_bytes = sa.func.sum(jobs.c.size)
_lanes = sa.union_all(
    _counts(_queued, jobs.c.company.is_(None), queued=_all, due=_those_due, size=_bytes),
    _counts(_queued, jobs.c.company.is_not(None), queued=_all, suspects=_those_due, size=_bytes),
    _counts(_running, running=_all),
).subquery()


def _sum(name: str) -> sa.ColumnElement[int]:
    return sa.cast(sa.func.sum(_lanes.c[name]), sa.BigInteger)


CENSUS = (
    sa.select(
        _lanes.c.model,
        *map(_sum, ("queued", "due", "running")),
        sa.func.max(_lanes.c.oldest_due_at),
        *map(_sum, ("suspects", "size")),
    )
    .group_by(_lanes.c.model)
    .order_by(_lanes.c.model)
)


_PARTS = ("queued", "running", "size", "stored")
_nothing = sa.literal_column("0", sa.BigInteger)


def _census_of(whose: sa.Column[str], ended: sa.Table) -> sa.Select[Any]:
    """A row for each tenant, or for each key, as that column of `jobs` says; ``ended`` has the bytes of what ended."""
    # In words that match no index: SQLite would rather read every job there is in the order of tenants.
    name = (whose + "").label("whose")

    def part(*where: sa.ColumnElement[bool], running: bool = False) -> sa.Select[tuple[object, ...]]:
        counts = (_nothing, _all, _nothing, _bytes) if running else (_all, _nothing, _bytes, _bytes)
        labelled = (each.label(label) for each, label in zip(counts, _PARTS, strict=True))
        there = (whose.is_not(None),) if whose.nullable else ()
        return sa.select(name, *labelled).where(*where, *there).group_by(name)

    parts = sa.union_all(
        part(_queued, jobs.c.company.is_(None)),
        part(_queued, jobs.c.company.is_not(None)),
        part(_running, running=True),
        sa.select(ended.c[whose.name], _nothing, _nothing, _nothing, ended.c.bytes).where(ended.c.bytes > 0),
    ).subquery()
    sums = (sa.cast(sa.func.sum(parts.c[label]), sa.BigInteger) for label in _PARTS)
    return sa.select(parts.c.whose, *sums).group_by(parts.c.whose).order_by(parts.c.whose)


TENANT_CENSUS = _census_of(jobs.c.tenant, stored)
KEY_CENSUS = _census_of(jobs.c.key, stored_by_key)
