"""Every SQL statement of the outbox, built once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from ktqueue.outbox.base import Delivery, DeliveryAttempt, DeliveryQuery, Endpoint
from ktqueue.sql.clock import db_now
from ktqueue.sql.dialects import UpdateEach, among, insert_new, insert_replacing
from ktqueue.sql.tables import deliveries, delivery_attempts, in_state, webhook_circuits, webhook_endpoints
from ktqueue.webhook import DeliveryState, EventType
from ktqueue.webhook_policy import OPENS_AFTER, Circuit

DELIVERY = tuple(deliveries.c[field.name] for field in fields(Delivery))
"""The columns of `deliveries` in the order of Delivery's fields; so are the next three."""
ATTEMPT = tuple(delivery_attempts.c[field.name] for field in fields(DeliveryAttempt))
ENDPOINT = tuple(webhook_endpoints.c[field.name] for field in fields(Endpoint))
CIRCUIT = tuple(webhook_circuits.c[field.name] for field in fields(Circuit))

_pending = in_state(DeliveryState.PENDING)
_this = deliveries.c.id == sa.bindparam("delivery_id")
_due = deliveries.c.next_at <= db_now()

NOW = sa.select(db_now())

# Receivers by hopping from one to the next along the index, which costs nothing for the thousands of rows of each.
_first = sa.select(sa.func.min(deliveries.c.target).label("target")).where(_pending).cte("targets", recursive=True)
_next = sa.select(sa.func.min(deliveries.c.target)).where(_pending, deliveries.c.target > _first.c.target)
_targets = _first.union_all(sa.select(_next.correlate(_first).scalar_subquery()).where(_first.c.target.is_not(None)))
DUE_TARGETS = (
    sa.select(_targets.c.target, *CIRCUIT)
    .select_from(_targets.outerjoin(webhook_circuits, webhook_circuits.c.target == _targets.c.target))
    .where(
        sa.or_(webhook_circuits.c.open_until.is_(None), webhook_circuits.c.open_until <= db_now()),
        sa.exists().where(_pending, deliveries.c.target == _targets.c.target, _due),
    )
)

_earlier = deliveries.alias("earlier")
_first_of_its_job = sa.not_(
    sa.exists().where(
        _earlier.c.job_id == deliveries.c.job_id,
        # In words that match no index but the one that begins with the job. A plan that PostgreSQL makes while there is
        # nothing, and keeps, would rather read all that an endpoint is to be told, for each delivery anew.
        _earlier.c.endpoint + "" == deliveries.c.endpoint,
        _earlier.c.seq < deliveries.c.seq,
        _earlier.c.attempts == 0,
        _earlier.c.state == str(DeliveryState.PENDING),
    )
)
_claimable = (
    sa.select(deliveries.c.id)
    .where(_pending, deliveries.c.target == sa.bindparam("for_target"), _due, _first_of_its_job)
    .order_by(deliveries.c.next_at, deliveries.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
    # As a common table, which PostgreSQL reads once. A subquery it may run for each row, past the limit.
    .cte("claimable")
)
CLAIM = (
    sa.update(deliveries)
    .where(deliveries.c.id.in_(sa.select(_claimable.c.id)))
    .values(
        token=sa.bindparam("new_token"),
        sender=sa.bindparam("new_sender"),
        next_at=db_now() + sa.bindparam("lease_ms", type_=sa.BigInteger),
    )
    .returning(*DELIVERY)
)

HELD = (
    sa.select(deliveries.c.id, deliveries.c.token, deliveries.c.attempts)
    .where(deliveries.c.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(deliveries.c.id)
    .with_for_update()
)
KEEP_ATTEMPT = insert_new(delivery_attempts)
SETTLE = UpdateEach(
    {
        "delivery_id": sa.BigInteger(),
        "held_token": sa.Text(),
        "new_state": sa.Text(),
        "new_next_at": sa.BigInteger(),
    },
    lambda given: (
        sa.update(deliveries)
        .where(deliveries.c.id == given["delivery_id"], deliveries.c.token == given["held_token"])
        .values(
            state=given["new_state"],
            next_at=given["new_next_at"],
            attempts=deliveries.c.attempts + 1,
            tries=deliveries.c.tries + 1,
            token=None,
            sender=None,
        )
    ),
)

_circuits_of = among(webhook_circuits.c.target)
CIRCUITS = sa.select(*CIRCUIT, webhook_circuits.c.target).where(_circuits_of)
FORGET_CIRCUITS = sa.delete(webhook_circuits).where(_circuits_of)
KEEP_CIRCUIT = insert_replacing(webhook_circuits)
HOLD_CIRCUIT = (
    sa.update(webhook_circuits)
    .where(_circuits_of, sa.or_(webhook_circuits.c.failures >= OPENS_AFTER, webhook_circuits.c.open_until > 0))
    .values(open_until=db_now() + sa.bindparam("lease_ms", type_=sa.BigInteger))
)

_held = deliveries.c.token.is_not(None)
SENDERS = sa.select(deliveries.c.sender).where(_pending, _held).distinct()
RELEASE = (
    sa.update(deliveries)
    .where(_pending, _held, deliveries.c.sender == sa.bindparam("gone"))
    .values(token=None, sender=None, next_at=db_now())
)

ADD_ENDPOINT = insert_new(webhook_endpoints)
_endpoints = sa.select(*ENDPOINT).order_by(webhook_endpoints.c.id)
ENDPOINTS_GIVEN = _endpoints.where(among(webhook_endpoints.c.id))
ENDPOINTS_OF = _endpoints.where(webhook_endpoints.c.tenant == sa.bindparam("owner"))
HOLD_ENDPOINT = ENDPOINTS_GIVEN.with_for_update()
_this_endpoint = webhook_endpoints.c.id == sa.bindparam("endpoint_id")
CHANGE_ENDPOINT = (
    sa.update(webhook_endpoints)
    .where(_this_endpoint)
    .values(
        {
            name: sa.bindparam(f"new_{name}")
            for name in (
                "url",
                "events",
                "model",
                "description",
                "disabled",
                "secret",
                "old_secret",
                "old_secret_until",
            )
        }
    )
)
DISABLE = (
    sa.update(webhook_endpoints)
    .where(_this_endpoint, webhook_endpoints.c.disabled.is_(None))
    .values(disabled=sa.bindparam("why"))
)
_theirs = deliveries.c.endpoint == sa.bindparam("endpoint_id")


def _in_order(*these: sa.ColumnElement[bool]) -> Sequence[sa.ColumnElement[bool]]:
    """These deliveries, locked in the order of ids, as senders lock theirs: so no two wait for each other."""
    ids = sa.select(deliveries.c.id).where(*these).order_by(deliveries.c.id).with_for_update().correlate(None)
    return [deliveries.c.id.in_(ids), *these]


GIVE_UP = (
    sa.update(deliveries)
    .where(*_in_order(_pending, _theirs))
    .values(state=str(DeliveryState.FAILED), next_at=None, token=None, sender=None)
)
DELETE_ENDPOINT = sa.delete(webhook_endpoints).where(_this_endpoint)
_of_endpoint = sa.select(deliveries.c.id).where(_theirs).correlate(None)
FORGET_ENDPOINT = (
    sa.delete(delivery_attempts).where(delivery_attempts.c.delivery_id.in_(_of_endpoint)),
    sa.delete(deliveries).where(*_in_order(_theirs)),
    sa.delete(webhook_circuits).where(webhook_circuits.c.target == sa.bindparam("endpoint_id")),
)

_tests = deliveries.alias("tests")
_last_test = (
    sa.select(sa.func.max(_tests.c.seq))
    .where(_tests.c.job_id == "", _tests.c.endpoint == webhook_endpoints.c.id)
    .correlate(webhook_endpoints)
    .scalar_subquery()
)
_test = {
    "job_id": sa.literal_column("''", sa.Text),
    "endpoint": webhook_endpoints.c.id,
    "seq": sa.case((_last_test >= db_now(), _last_test + 1), else_=db_now()),
    "type": sa.literal_column(str(int(EventType.TEST)), sa.Integer),
    "at": db_now(),
    "target": webhook_endpoints.c.id,
    "state": sa.literal_column(f"'{DeliveryState.PENDING}'", sa.Text),
    "next_at": db_now(),
    "tenant": webhook_endpoints.c.tenant,
    **{name: sa.literal_column("0", sa.Integer) for name in ("attempts", "tries", "attempt")},
}
ADD_TEST = (
    sa.insert(deliveries)
    .from_select(list(_test), sa.select(*_test.values()).where(_this_endpoint))
    .returning(*DELIVERY)
)

GET = sa.select(*DELIVERY).where(_this)
ATTEMPTS = (
    sa.select(*ATTEMPT)
    .where(delivery_attempts.c.delivery_id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(delivery_attempts.c.delivery_id, delivery_attempts.c.number)
)
_anew = {"state": str(DeliveryState.PENDING), "next_at": db_now(), "tries": 0, "token": None, "sender": None}
REDELIVER = sa.update(deliveries).where(_this, deliveries.c.token.is_(None)).values(**_anew)
REPLAY = (
    sa.update(deliveries)
    .where(
        *_in_order(
            in_state(DeliveryState.FAILED), _theirs, deliveries.c.at >= sa.bindparam("since", type_=sa.BigInteger)
        )
    )
    .values(**_anew)
    .execution_options(preserve_rowcount=True)
)

OLD_TESTS = (
    sa.select(deliveries.c.id)
    .where(deliveries.c.job_id == "", deliveries.c.at < sa.bindparam("before", type_=sa.BigInteger))
    .limit(sa.bindparam("most", type_=sa.Integer))
)
PRUNE_TESTS = (
    sa.delete(delivery_attempts).where(delivery_attempts.c.delivery_id.in_(sa.bindparam("ids", expanding=True))),
    sa.delete(deliveries).where(deliveries.c.id.in_(sa.bindparam("ids", expanding=True))),
)


def search(query: DeliveryQuery) -> sa.Select[tuple[Any, ...]]:
    """The statement for a list, newest first."""
    return sa.select(*DELIVERY).where(*_conditions(query)).order_by(deliveries.c.id.desc()).limit(query.limit)


def _conditions(query: DeliveryQuery) -> Sequence[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if query.tenant is not None:
        found.append(deliveries.c.tenant == query.tenant)
    if query.job_id is not None:
        found.append(deliveries.c.job_id == query.job_id)
    if query.endpoint is not None:
        found.append(deliveries.c.endpoint == query.endpoint)
    if query.state is not None:
        found.append(in_state(query.state))
    if query.before is not None:
        found.append(deliveries.c.id < query.before)
    return found
