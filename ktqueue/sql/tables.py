"""The tables. Migrations make them, and a test holds the two together.

A job is written three times (added, claimed, finished), so each index is there for a question that is asked often,
and all but two are partial: a row that can't be an answer is not in them. Small columns come first, so that reading
them stays clear of a large input or result.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from ktqueue.control import LaneMode
from ktqueue.job import JobState, Outcome
from ktqueue.tenant import DEFAULT_TENANT
from ktqueue.webhook import DeliveryState, Disabled

metadata = sa.MetaData()


def is_state(state: JobState) -> sa.ColumnElement[bool]:
    """``state = '…'`` with the state spelled out, so that planners see that a partial index answers it."""
    return jobs.c.state == sa.literal_column(f"'{state}'", sa.Text)


def unsuccessful() -> sa.ColumnElement[bool]:
    """Of jobs that have ended in another way than well; spelled out for planners, too."""
    return jobs.c.finished_at.is_not(None) & (jobs.c.state != sa.literal_column(f"'{JobState.SUCCEEDED}'", sa.Text))


def _tenant(*, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column("tenant", sa.Text, primary_key=primary_key, nullable=False, server_default=DEFAULT_TENANT)


def _document(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(none_as_null=True), nullable=nullable)


jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("rank", sa.Double, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("claims", sa.Integer, nullable=False),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("run_at", sa.BigInteger),
    sa.Column("due_at", sa.BigInteger, nullable=False),  # since when it may be claimed; stays when run_at is cleared
    sa.Column("deadline_at", sa.BigInteger),
    sa.Column("lease_until", sa.BigInteger),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("finished_at", sa.BigInteger),
    sa.Column("largest_batch", sa.Integer),
    sa.Column("token", sa.Text),
    sa.Column("worker", sa.Text),
    sa.Column("retry_of", sa.Text),
    _document("error", nullable=True),
    _document("usage", nullable=True),
    sa.Column("metadata", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False),
    _document("params"),
    _document("input"),
    _document("result", nullable=True),
    sa.Column("company", sa.Integer),
    sa.Column("crashes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("size", sa.Integer, nullable=False, server_default="0"),  # bytes that it came with, as JSON
    sa.Column("webhook_url", sa.Text),
    sa.Column("webhook_target", sa.Text),
    sa.Column("webhook_events", sa.Integer, nullable=False, server_default="0"),  # a set of EventType
    _tenant(),
    sa.Column("cost", sa.Integer, nullable=False, server_default="1"),  # tokens that it may take
    sa.Column("device_s", sa.Double),
    _document("ride", nullable=True),
    sa.Column("stored", sa.Integer, nullable=False, server_default="0"),  # what it adds to `stored`, once it has ended
    sa.Column("key", sa.Text),  # what it is counted as besides its tenant's, if it came with a key: `counted_as`
    sa.CheckConstraint(f"state IN ({', '.join(repr(str(state)) for state in JobState)})", name="jobs_state"),
    sa.CheckConstraint("(finished_at IS NULL) = (state IN ('queued', 'running'))", name="jobs_finished"),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    _tenant(primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("job_id", sa.Text, nullable=False, index=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("claim", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("charged", sa.Boolean, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    _document("error", nullable=True),
    sa.Column("device_s", sa.Double),
    _document("ride", nullable=True),
    sa.CheckConstraint(f"outcome IN ({', '.join(repr(str(outcome)) for outcome in Outcome)})", name="attempts_outcome"),
)
"""Only those after which a job was queued again, so that a job which succeeds at once costs no row here."""


lanes = sa.Table(
    "lanes",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("mode", sa.Text, nullable=False, server_default=str(LaneMode.OPEN)),
    sa.Column("concurrency", sa.Integer),
    sa.CheckConstraint(f"mode IN ({', '.join(repr(str(mode)) for mode in LaneMode)})", name="lanes_mode"),
    sa.CheckConstraint("concurrency > 0", name="lanes_concurrency"),
)
"""Only those of which something was ever ordered."""

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)
"""Who has what only one process at a time may have."""

serving = sa.Table(
    "serving",
    metadata,
    sa.Column("worker", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("serves", sa.Boolean, nullable=False),
)
"""Whether a worker serves a model, where that was ever ordered."""

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),  # since 1970-01-01 UTC
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("model", sa.Text, primary_key=True),
    *(sa.Column(state.value, sa.BigInteger, nullable=False) for state in JobState if state.terminal),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("device_seconds", sa.Double, nullable=False),
)
"""What jobs used that ended on that day."""

stored = sa.Table(
    "stored",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)
"""What jobs take that have ended and are not deleted."""

stored_by_key = sa.Table(
    "stored_by_key",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)
"""The same of those that came with a key, once more."""

journal = sa.Table(
    "journal",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("day", sa.Integer, nullable=False),
    _document("uses"),
    _document("sizes"),
)
"""What transactions that ended or deleted jobs add to the three above: one row each, until it is posted."""

webhook_endpoints = sa.Table(
    "webhook_endpoints",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("events", sa.Integer, nullable=False),  # a set of EventType
    sa.Column("model", sa.Text),  # None: every model's
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("disabled", sa.Text),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("old_secret", sa.Text),
    sa.Column("old_secret_until", sa.BigInteger),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    _tenant(),
    sa.CheckConstraint(f"disabled IN ({', '.join(repr(str(why)) for why in Disabled)})", name="endpoints_disabled"),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("job_id", sa.Text, nullable=False),  # '' for a test
    sa.Column("endpoint", sa.Text, nullable=False),  # '' for the job's own webhook
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("type", sa.Integer, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("next_at", sa.BigInteger),
    sa.Column("token", sa.Text),
    sa.Column("sender", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("run_at", sa.BigInteger),
    sa.Column("progress", sa.Double),
    _tenant(),
    sa.UniqueConstraint("job_id", "endpoint", "seq", name="deliveries_event"),
    sa.CheckConstraint(f"state IN ({', '.join(repr(str(s)) for s in DeliveryState)})", name="deliveries_state"),
    sa.CheckConstraint("(next_at IS NOT NULL) = (state = 'pending')", name="deliveries_due"),
)

delivery_attempts = sa.Table(
    "delivery_attempts",
    metadata,
    sa.Column("delivery_id", sa.BigInteger, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("duration_ms", sa.Integer, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("error", sa.Text),
    sa.Column("answer", sa.Text, nullable=False),
)

webhook_circuits = sa.Table(
    "webhook_circuits",
    metadata,
    sa.Column("target", sa.Text, primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("failing_since", sa.BigInteger, nullable=False),
    sa.Column("open_until", sa.BigInteger, nullable=False),
)
"""Only targets that fail."""


tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("weight", sa.Double, nullable=False),
    sa.Column("requests_per_minute", sa.BigInteger),
    sa.Column("tokens_per_minute", sa.BigInteger),
    sa.Column("queued_jobs", sa.BigInteger),
    sa.Column("unfinished_jobs", sa.BigInteger),
    sa.Column("queued_bytes", sa.BigInteger),
    sa.Column("stored_bytes", sa.BigInteger),
    sa.Column("running_jobs", sa.BigInteger),
)
"""Only those of whom something is to be remembered: any name is a tenant's."""

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("prefix", sa.Text, nullable=False, unique=True),
    sa.Column("tenant", sa.Text, nullable=False, index=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),  # separated by spaces
    sa.Column("salt", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("last_used_at", sa.BigInteger),
    sa.Column("requests_per_minute", sa.BigInteger),
    sa.Column("tokens_per_minute", sa.BigInteger),
    sa.Column("queued_jobs", sa.BigInteger),
    sa.Column("unfinished_jobs", sa.BigInteger),
    sa.Column("queued_bytes", sa.BigInteger),
    sa.Column("stored_bytes", sa.BigInteger),
    sa.Column("origin", sa.Text),  # of which it came by rotation; None: of none
    sa.Column("running_jobs", sa.BigInteger),
)


def in_state(state: DeliveryState) -> sa.ColumnElement[bool]:
    """As `is_state`, of a delivery."""
    return deliveries.c.state == sa.literal_column(f"'{state}'", sa.Text)


def _partial(name: str, where: sa.ColumnElement[bool], *columns: sa.Column[Any]) -> sa.Index:
    return sa.Index(name, *columns, sqlite_where=where, postgresql_where=where)


# A lane in its order. The other columns ride along so that `waiting` and `census` need not touch the rows.
_ALONG = ("due_at", "state", "company", "size", "tenant", "priority", "cost", "deadline_at", "key")
_partial(
    "jobs_lane",
    is_state(JobState.QUEUED) & jobs.c.company.is_(None),
    *(jobs.c[name] for name in ("model", "rank", "id", *_ALONG)),
)
_partial(
    "jobs_suspects",
    is_state(JobState.QUEUED) & jobs.c.company.is_not(None),
    *(jobs.c[name] for name in ("model", "company", "rank", "id")),
)
# The few that run, counted by lane, tenant and key. Not by lease_until: a heartbeat would then rewrite the index.
_partial("jobs_running", is_state(JobState.RUNNING), *(jobs.c[name] for name in ("model", "tenant", "state", "key")))
_partial("jobs_scheduled", is_state(JobState.QUEUED) & jobs.c.run_at.is_not(None), jobs.c.run_at)
_partial("jobs_deadline", jobs.c.deadline_at.is_not(None) & jobs.c.finished_at.is_(None), jobs.c.deadline_at)
# Lists, newest first. The model rides along: a list of one model's jobs then passes over the others in the index. Those
# that succeeded are looked for among all: with many tenants, each would cost a page more to write as it ends.
_partial("jobs_unsuccessful", unsuccessful(), jobs.c.tenant, jobs.c.state, jobs.c.id)
sa.Index("jobs_tenant", jobs.c.tenant, jobs.c.id, jobs.c.model)
sa.Index("endpoints_tenant", webhook_endpoints.c.tenant, webhook_endpoints.c.id)
sa.Index("deliveries_tenant", deliveries.c.tenant, deliveries.c.id)
# Read twice a second by every process.
_partial(
    "api_keys_running", api_keys.c.running_jobs.is_not(None), api_keys.c.id, api_keys.c.origin, api_keys.c.running_jobs
)
# What is to be told, receiver by receiver; what a sender holds; what failed, to be replayed; lists, newest first.
_partial(
    "deliveries_pending",
    in_state(DeliveryState.PENDING),
    *(deliveries.c[name] for name in ("target", "next_at", "id")),
)
_partial("deliveries_held", deliveries.c.token.is_not(None), deliveries.c.sender)
_partial("deliveries_failed", in_state(DeliveryState.FAILED), deliveries.c.endpoint, deliveries.c.id)
sa.Index("deliveries_endpoint", deliveries.c.endpoint, deliveries.c.id)
