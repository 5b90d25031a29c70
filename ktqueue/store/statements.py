"""Every SQL statement of the store, built once: SQLAlchemy then finds its compiled text without a second look.

A group of rows is always locked in the order of ids (or skipped where another holds it), so that no two groups can
wait for each other. ``with_for_update`` is PostgreSQL's; on SQLite a writer is alone anyway.
"""

from __future__ import annotations

from dataclasses import fields

import sqlalchemy as sa

from ktqueue.job import JobState
from ktqueue.priority_class import Entry
from ktqueue.sql.clock import db_now
from ktqueue.sql.dialects import Columns, Given, PerRow, UpdateEach, among, has_entry, insert_new
from ktqueue.sql.tables import (
    attempts,
    deliveries,
    delivery_attempts,
    idempotency_keys,
    in_state,
    is_state,
    jobs,
    unsuccessful,
)
from ktqueue.store.base import JobQuery, Queued
from ktqueue.store.rows import ATTEMPT_COLUMNS, JOB_COLUMNS, NEW_ROW, Running
from ktqueue.webhook import DeliveryState


def still(state: JobState) -> sa.ColumnElement[bool]:
    """The state of rows that are found by id, asked in words that match no partial index.

    PostgreSQL, while its statistics are behind, would rather read a whole lane than look up a few hundred ids.
    """
    return jobs.c.state + "" == str(state)


_queued, _running = is_state(JobState.QUEUED), is_state(JobState.RUNNING)
_still_queued, _still_running = still(JobState.QUEUED), still(JobState.RUNNING)
_due = jobs.c.due_at <= db_now()
_lapsed = jobs.c.lease_until <= db_now()
_given = among(jobs.c.id)
_this_job = jobs.c.id == sa.bindparam("job_id")
_lease_end = db_now() + sa.bindparam("lease_ms", type_=sa.BigInteger)
_released = {"token": None, "lease_until": None}

PING = sa.select(jobs.c.id).limit(1)
NOW = sa.select(db_now())

# Due from the database's now, not from created_at: that is a client's reading of this clock and may be a little ahead.
ADD = PerRow(
    insert_new(jobs).values(due_at=sa.func.coalesce(sa.bindparam("scheduled_for", type_=sa.BigInteger), db_now())),
    NEW_ROW,
)
KEEP_KEY = insert_new(idempotency_keys).values(created_at=db_now()).execution_options(preserve_rowcount=True)
KEPT = sa.select(idempotency_keys.c.digest, idempotency_keys.c.job_id).where(
    idempotency_keys.c.tenant == sa.bindparam("tenant"), idempotency_keys.c.key == sa.bindparam("key")
)

GET = sa.select(*JOB_COLUMNS).where(_this_job)
JOBS = sa.select(*JOB_COLUMNS).where(_given)

_in_time = sa.or_(jobs.c.deadline_at.is_(None), jobs.c.deadline_at > db_now())
_claimed = {
    "state": str(JobState.RUNNING),
    "attempt": jobs.c.attempt + 1,
    "claims": jobs.c.claims + 1,
    "token": sa.bindparam("new_token"),
    "worker": sa.bindparam("new_worker"),
    "started_at": db_now(),
    "lease_until": _lease_end,
}


def _claim(claimable: sa.Select[tuple[str]]) -> sa.sql.dml.ReturningUpdate[tuple[object, ...]]:
    # As a common table, which PostgreSQL reads once. A subquery it may run for each row, past any limit in it.
    claimed = claimable.correlate(None).with_for_update(skip_locked=True).cte("claimable")
    ids = sa.select(claimed.c.id)
    return sa.update(jobs).where(jobs.c.id.in_(ids), _still_queued).values(**_claimed).returning(*JOB_COLUMNS)


# Of no lane: a stale entry of Redis must not bring a suspect among others.
_soonest_end = db_now() + jobs.c.cost * sa.bindparam("least_ms_each", type_=sa.Double)
_can_be_in_time = sa.or_(jobs.c.deadline_at.is_(None), jobs.c.deadline_at > _soonest_end)
CLAIM = _claim(sa.select(jobs.c.id).where(_given, _still_queued, jobs.c.company.is_(None), _due, _can_be_in_time))

_suspect = (_queued, jobs.c.company.is_not(None), jobs.c.model == sa.bindparam("lane"), _due, _in_time)
# A job without a key is in no list of keys, and is not in one of NULL either.
_may_run = sa.not_(among(jobs.c.tenant, "full")) & sa.not_(among(sa.func.coalesce(jobs.c.key, ""), "full"))
MOST_COMPANY = sa.select(sa.func.max(jobs.c.company)).where(*_suspect, _may_run)
SUSPECTS = (
    sa.select(jobs.c.id, jobs.c.tenant, jobs.c.key)
    .where(*_suspect, _may_run, jobs.c.company == sa.bindparam("most_company"))
    .order_by(jobs.c.rank, jobs.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
)
CLAIM_SUSPECTS = _claim(sa.select(jobs.c.id).where(_given, _still_queued))

_held = (_given, _still_running, jobs.c.token == sa.bindparam("held_token"))
RENEW = (
    sa.update(jobs)
    .where(
        jobs.c.id.in_(sa.select(jobs.c.id).where(*_held).order_by(jobs.c.id).correlate(None).with_for_update()),
        *_held[1:],
    )
    .values(lease_until=_lease_end)
    .returning(jobs.c.id)
)

RUNNING = (
    sa.select(*(jobs.c[name] for name in Running._fields))
    .where(_given, _still_running)
    .order_by(jobs.c.id)
    .with_for_update()
)
LAPSED_RUNNING = RUNNING.where(_lapsed)

_JSON = sa.JSON(none_as_null=True)
_FENCE: Columns = {"job_id": sa.Text(), "fence_token": sa.Text(), "fence_claim": sa.Integer()}


def _fenced(given: Given) -> sa.Update:
    return sa.update(jobs).where(
        jobs.c.id == given["job_id"],
        jobs.c.token == given["fence_token"],
        jobs.c.claims == given["fence_claim"],
        _still_running,
    )


FINISH = UpdateEach(
    {
        **_FENCE,
        "new_state": sa.Text(),
        "new_result": _JSON,
        "new_error": _JSON,
        "new_usage": _JSON,
        "new_largest_batch": sa.Integer(),
        "new_device_s": sa.Double(),
        "new_ride": _JSON,
        "new_stored": sa.Integer(),
    },
    lambda given: _fenced(given).values(
        state=given["new_state"],
        result=given["new_result"],
        error=given["new_error"],
        usage=given["new_usage"],
        largest_batch=given["new_largest_batch"],
        device_s=given["new_device_s"],
        ride=given["new_ride"],
        stored=given["new_stored"],
        finished_at=db_now(),
        **_released,
    ),
)
REQUEUE = UpdateEach(
    {
        **_FENCE,
        "given_back": sa.Integer(),
        "new_run_at": sa.BigInteger(),
        "new_company": sa.Integer(),
        "new_crashes": sa.Integer(),
    },
    lambda given: _fenced(given).values(
        state=str(JobState.QUEUED),
        attempt=jobs.c.attempt - given["given_back"],
        run_at=given["new_run_at"],
        due_at=sa.func.coalesce(given["new_run_at"], db_now()),
        company=given["new_company"],
        crashes=given["new_crashes"],
        worker=None,
        started_at=None,
        **_released,
    ),
)

KEEP_ATTEMPT = insert_new(attempts).values(ended_at=db_now())
ATTEMPTS = sa.select(*ATTEMPT_COLUMNS).where(attempts.c.job_id == sa.bindparam("job_id")).order_by(attempts.c.claim)

GET_LOCKED = GET.with_for_update()
OVERDUE = (
    sa.select(*JOB_COLUMNS)
    .where(jobs.c.deadline_at <= db_now(), jobs.c.finished_at.is_(None))
    .where(
        is_state(JobState.QUEUED)
        | (jobs.c.deadline_at <= db_now() - sa.bindparam("running_after_ms", type_=sa.BigInteger))
    )
    .order_by(jobs.c.deadline_at)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
)
DUE_WITHIN = (
    sa.select(jobs.c.state, jobs.c.id, jobs.c.model, jobs.c.cost, jobs.c.deadline_at)
    .where(
        jobs.c.deadline_at <= db_now() + sa.bindparam("within_ms", type_=sa.BigInteger), jobs.c.finished_at.is_(None)
    )
    .order_by(jobs.c.deadline_at)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
TOO_LATE = (
    sa.select(*JOB_COLUMNS)
    .where(_given, _still_queued, jobs.c.deadline_at <= _soonest_end)
    .with_for_update(skip_locked=True)
)
END = (
    sa.update(jobs)
    .where(_given, jobs.c.finished_at.is_(None))
    .values(state=sa.bindparam("new_state"), finished_at=db_now(), stored=jobs.c.size, **_released)
)

SCHEDULED = (
    sa.select(*JOB_COLUMNS)
    .where(_queued, jobs.c.run_at.is_not(None), jobs.c.run_at <= db_now())
    .order_by(jobs.c.run_at)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
)
WAKE = sa.update(jobs).where(_given, _still_queued).values(run_at=None)

LAPSED = (
    sa.select(*JOB_COLUMNS)
    .where(_running, _lapsed)
    .order_by(jobs.c.lease_until)
    .limit(sa.bindparam("most", type_=sa.Integer))
)

HOLDERS = sa.select(jobs.c.token, jobs.c.worker).where(_running).distinct()
HELD = sa.select(*JOB_COLUMNS).where(_running, jobs.c.token == sa.bindparam("held_token")).order_by(jobs.c.id)

WAITING = (
    sa.select(*(jobs.c[field.name] for field in fields(Entry) if field.name != "model"))
    .where(jobs.c.model == sa.bindparam("lane"), _queued, jobs.c.company.is_(None), _due)
    .order_by(jobs.c.rank, jobs.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
WAITING_AFTER = WAITING.where(
    sa.tuple_(jobs.c.rank, jobs.c.id)
    > sa.tuple_(sa.bindparam("after_rank", type_=sa.Double), sa.bindparam("after_id", type_=sa.Text))
)


def counts_of(which: Queued) -> list[sa.Select[int]]:
    """The statements that count these jobs, each from an index of its own."""
    return [sa.select(sa.func.count()).select_from(jobs).where(*part) for part in _parts(which)]


def parts_of(which: Queued) -> list[sa.Select[tuple[object, ...]]]:
    """The statements that lock the last ``most`` of these jobs, each from an index of its own.

    From the end of the lane, away from those who claim.
    """
    return [
        sa.select(*JOB_COLUMNS)
        .where(*part)
        .order_by(jobs.c.rank.desc(), jobs.c.id.desc())
        .limit(sa.bindparam("most", type_=sa.Integer))
        .with_for_update(skip_locked=True)
        for part in _parts(which)
    ]


def _parts(which: Queued) -> list[list[sa.ColumnElement[bool]]]:
    these = [_queued, jobs.c.model == which.model]
    if which.tenant is not None:
        these.append(jobs.c.tenant == which.tenant)
    if which.created_before is not None:
        these.append(jobs.c.created_at < which.created_before)
    return [[*these, jobs.c.company.is_(None)], [*these, jobs.c.company.is_not(None)]]


_freed = (jobs.c.tenant, jobs.c.key, -jobs.c.stored)
DELETE = sa.delete(jobs).where(_this_job, jobs.c.finished_at.is_not(None)).returning(*_freed)
FORGET_ATTEMPTS = sa.delete(attempts).where(among(attempts.c.job_id))
FORGET_KEYS = sa.delete(idempotency_keys).where(among(idempotency_keys.c.job_id))
_told = sa.select(deliveries.c.id).where(among(deliveries.c.job_id)).correlate(None)
FORGET_TELLING = sa.delete(delivery_attempts).where(delivery_attempts.c.delivery_id.in_(_told))
# In the order of ids, as senders lock theirs.
_telling = sa.select(deliveries.c.id).where(among(deliveries.c.job_id)).order_by(deliveries.c.id).with_for_update()
FORGET_DELIVERIES = sa.delete(deliveries).where(
    deliveries.c.id.in_(_telling.correlate(None)), among(deliveries.c.job_id)
)
FORGET = (FORGET_ATTEMPTS, FORGET_KEYS, FORGET_TELLING, FORGET_DELIVERIES)
"""What goes with jobs that are deleted."""

# By the primary key, and so about by age: no index is paid for at each finish that only this would need.
OLDEST = (
    sa.select(jobs.c.id, jobs.c.created_at, jobs.c.finished_at)
    .where(jobs.c.id > sa.bindparam("after_id", type_=sa.Text))
    .order_by(jobs.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_all_told = sa.not_(sa.exists().where(deliveries.c.job_id == jobs.c.id, in_state(DeliveryState.PENDING)))
ENDED = (
    sa.select(jobs.c.id)
    .where(_given, jobs.c.finished_at.is_not(None), _all_told)
    .order_by(jobs.c.id)
    .with_for_update(skip_locked=True)
)
PRUNE = sa.delete(jobs).where(_given).returning(*_freed)


def search(query: JobQuery) -> sa.Select[tuple[object, ...]]:
    """The statement for a list, newest first."""
    statement = sa.select(*JOB_COLUMNS).where(*_conditions(query)).order_by(jobs.c.id.desc())
    if query.ids:
        statement = statement.where(_given).params(ids=list(query.ids))
    return statement.limit(query.limit)


def _conditions(query: JobQuery) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = [has_entry(jobs.c.metadata, *entry) for entry in query.metadata.items()]
    if query.tenant is not None:
        found.append(jobs.c.tenant == query.tenant)
    if len(query.states) == 1:
        found.append(jobs.c.state == str(query.states[0]))
        if query.states[0].terminal and query.states[0] is not JobState.SUCCEEDED:
            found.append(unsuccessful())  # what their index covers
    elif query.states:
        found.append(jobs.c.state.in_([str(state) for state in query.states]))
    if query.model is not None:
        found.append(jobs.c.model == query.model)
    if query.created_from is not None:
        found.append(jobs.c.created_at >= query.created_from)
    if query.created_to is not None:
        found.append(jobs.c.created_at < query.created_to)
    if query.before is not None:
        found.append(jobs.c.id < query.before)
    return found
