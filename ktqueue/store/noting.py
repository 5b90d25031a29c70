"""What a change of jobs leaves in the outbox: a delivery for each receiver that wants to be told.

One statement, run in the transaction of the change, reads off the rows what has just happened to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ktqueue.job import JobState
from ktqueue.sql.clock import db_now
from ktqueue.sql.dialects import among, insert_new
from ktqueue.sql.tables import deliveries, jobs, webhook_endpoints
from ktqueue.webhook import LAST_MOMENT, MOMENTS_A_CLAIM, PROGRESS_MS, DeliveryState, EventType, event_of

_FIELDS = (
    *("job_id", "endpoint", "seq", "type", "at", "target", "state", "attempts", "tries", "next_at"),
    *("attempt", "started_at", "run_at", "progress", "tenant"),
)
_Labelled = Sequence[sa.ColumnElement[Any]]


def _number(value: int) -> sa.ColumnElement[Any]:
    return sa.literal_column(str(value), sa.BigInteger)


def _text(value: str) -> sa.ColumnElement[Any]:
    return sa.literal_column(f"'{value}'", sa.Text)


_given = among(jobs.c.id)
_kind = sa.case({str(state): _number(event_of(state)) for state in JobState}, value=jobs.c.state)
_ended = jobs.c.finished_at.is_not(None)
_moment = jobs.c.claims * _number(MOMENTS_A_CLAIM) + sa.case((_ended, _number(LAST_MOMENT)), else_=_number(0))
_since = sa.func.coalesce(jobs.c.finished_at, jobs.c.started_at, jobs.c.created_at)
_enabled = webhook_endpoints.c.disabled.is_(None)
_wanting = sa.and_(
    webhook_endpoints.c.tenant == jobs.c.tenant,
    sa.or_(webhook_endpoints.c.model.is_(None), webhook_endpoints.c.model == jobs.c.model),
)


def _receivers(what: Mapping[str, Any], *which: sa.ColumnElement[bool]) -> sa.sql.dml.Insert:
    """An INSERT of what the webhooks of these jobs, and the endpoints that registered for them, are to be told.

    ``what`` gives ``type``, ``seq``, ``at`` and ``progress`` of the event.
    """
    common: dict[str, Any] = {
        "job_id": jobs.c.id,
        "attempts": _number(0),
        "tries": _number(0),
        "attempt": jobs.c.attempt,
        "started_at": jobs.c.started_at,
        "run_at": jobs.c.run_at,
        "tenant": jobs.c.tenant,
    } | dict(what)
    wanted = what["type"]
    own = common | {
        "endpoint": _text(""),
        "target": jobs.c.webhook_target,
        "state": _text(DeliveryState.PENDING),
        "next_at": db_now(),
    }
    # An endpoint that is disabled can be told later on what it missed.
    registered = common | {
        "endpoint": webhook_endpoints.c.id,
        "target": webhook_endpoints.c.id,
        "state": sa.case((_enabled, _text(DeliveryState.PENDING)), else_=_text(DeliveryState.FAILED)),
        "next_at": sa.case((_enabled, db_now())),
    }
    told = sa.union_all(
        sa.select(*_in_order(own)).where(*which, jobs.c.webhook_events.op("&")(wanted) != 0),
        sa.select(*_in_order(registered))
        .select_from(webhook_endpoints.join(jobs, _wanting))
        .where(*which, webhook_endpoints.c.events.op("&")(wanted) != 0),
    )
    return insert_new(deliveries).from_select(_FIELDS, told).execution_options(preserve_rowcount=True)


def _in_order(values: Mapping[str, Any]) -> _Labelled:
    return [values[name].label(name) for name in _FIELDS]


NOTE = _receivers({"type": _kind, "seq": _moment, "at": _since, "progress": sa.cast(sa.null(), sa.Double)}, _given)
"""Tells of each given job what it is now; nothing twice."""

ANY_ENDPOINT = "SELECT 1 FROM webhook_endpoints LIMIT 1"

_progress = _number(EventType.JOB_PROGRESS)
_told_lately = sa.exists().where(
    deliveries.c.job_id == jobs.c.id, deliveries.c.type == _progress, deliveries.c.at > db_now() - PROGRESS_MS
)
_registered = sa.exists().where(webhook_endpoints.c.events.op("&")(_progress) != 0, _wanting)
WANT_PROGRESS = sa.select(jobs.c.id).where(
    _given, sa.or_(jobs.c.webhook_events.op("&")(_progress) != 0, _registered), sa.not_(_told_lately)
)
"""Those of the given jobs of whose progress somebody wants to be told, and was not of late."""

NOTE_PROGRESS = _receivers(
    {
        "type": _progress,
        "seq": jobs.c.claims * _number(MOMENTS_A_CLAIM) + sa.bindparam("thousandths", type_=sa.BigInteger),
        "at": db_now(),
        "progress": sa.bindparam("so_far", type_=sa.Double),
    },
    jobs.c.id == sa.bindparam("job_id"),
    jobs.c.token == sa.bindparam("held_token"),
)
"""Tells how far a job has come that is still held."""
