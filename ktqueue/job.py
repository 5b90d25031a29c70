"""A job: the row in `jobs`, its states, and what may become of it. Frozen values, no I/O.

::

                ┌────────── retry, or lease lost ──────────┐
                ▼                                          │
     POST ─▶ queued ───claim───▶ running ──┬─▶ succeeded   │
                │                          ├─▶ failed ─────┘ (only while attempts remain)
                ├─▶ cancelled ◀────────────┤
                └─▶ expired   ◀────────────┘

`succeeded`, `failed`, `cancelled` and `expired` are terminal and never change again.
Every instant is in whole Unix milliseconds on the database's clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import orjson

from ktqueue.tenant import DEFAULT_TENANT
from ktqueue.webhook import EventType, Webhook

JsonObject: TypeAlias = dict[str, Any]


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """Whether the job will never change again."""
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.EXPIRED}),
    JobState.RUNNING: frozenset(
        {JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED}
    ),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
    JobState.EXPIRED: frozenset(),
}


class Task(StrEnum):
    """What is asked of a model."""

    GENERATE = "generate"
    EMBED = "embed"
    CLASSIFY = "classify"
    RERANK = "rerank"
    ECHO = "echo"


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed, as clients see it. ``code`` is stable, ``message`` is for people."""

    code: str
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job consumed, in the model's own tokens."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Ride:
    """The steps that a job was in, in one attempt: how many, and how many jobs they had, itself included.

    ``mean`` is over the steps, of which there was at least one.
    """

    steps: int
    smallest: int
    mean: float
    largest: int


@dataclass(frozen=True, slots=True)
class Job:
    """One request for inference.

    ``attempt`` counts the claims that are charged to the job (never above ``max_attempts``); ``claims`` counts
    all of them and orders the job's events; ``token`` names the claim that holds it now. ``crashes`` counts the
    processes that died with it in a row, and ``company`` is set once it is suspected of being why: the most that may
    share an engine with it, itself included.
    ``device_s`` is its share of the steps that the attempt took which ended it, in seconds, and ``ride`` are those.
    ``size`` is the bytes of input, params and metadata, as JSON; ``cost`` an estimate of its tokens; ``webhook_…`` are
    the parts of `webhook`. ``key`` is what it is counted as besides its tenant's, if it came with a key.
    """

    id: str
    model: str
    task: Task
    input: JsonObject
    params: JsonObject
    created_at: int
    rank: float
    priority: int = 5
    max_attempts: int = 3
    metadata: Mapping[str, str] = field(default_factory=dict)
    run_at: int | None = None
    deadline_at: int | None = None
    retry_of: str | None = None
    state: JobState = JobState.QUEUED
    attempt: int = 0
    claims: int = 0
    token: str | None = None
    worker: str | None = None
    lease_until: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    result: JsonObject | None = None
    error: JobError | None = None
    usage: Usage | None = None
    largest_batch: int | None = None
    device_s: float | None = None
    company: int | None = None
    crashes: int = 0
    size: int = 0
    webhook_url: str | None = None
    webhook_target: str | None = None
    webhook_events: int = 0
    tenant: str = DEFAULT_TENANT
    cost: int = 1
    ride: Ride | None = None
    key: str | None = None

    @property
    def owners(self) -> tuple[str, ...]:
        """Whose limits hold for it: its tenant's, and its key's if it came with one. No key is called like a tenant."""
        return owners_of(self.tenant, self.key)

    @property
    def webhook(self) -> Webhook | None:
        """Where this job's events go, besides registered endpoints."""
        if self.webhook_url is None or self.webhook_target is None:
            return None
        return Webhook(self.webhook_url, self.webhook_target, EventType(self.webhook_events))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a queued job stands: ``position`` jobs are ahead of it. None is 'unknown'."""

    position: int | None = None
    eta_s: float | None = None


class Outcome(StrEnum):
    """How one attempt ended; RUNNING while it has not."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    CRASHED = "crashed"
    LEASE_LOST = "lease_lost"
    GIVEN_BACK = "given_back"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claim of a job: who ran it, when, and how that ended.

    ``claim`` numbers all claims of a job from 1; ``attempt`` those that are charged to it, so one that is not
    ``charged`` has the number of the next. ``device_s`` is the job's share of its steps, in seconds, and ``ride`` are
    those; None where the process died before it could tell, or the job was cancelled meanwhile.
    """

    claim: int
    attempt: int
    charged: bool
    worker: str
    started_at: int
    ended_at: int | None
    outcome: Outcome
    error: JobError | None = None
    device_s: float | None = None
    ride: Ride | None = None


class Fence(NamedTuple):
    """What a write about a running job must still match, or it changes nothing.

    By the number of the claim and not of the attempt, which an uncharged one gives back to the next.
    """

    job_id: str
    token: str
    claim: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of one running job.

    ``state`` is SUCCEEDED (with ``result``), FAILED (with ``error``) or EXPIRED (with what there is of a ``result``).
    Or it is QUEUED: to be tried again at ``run_at``, with ``charged=False`` when the attempt is given back because it
    was no fault of the job's, and with ``crashes`` and ``company`` as the job shall have them. ``device_s`` is the
    job's share of the attempt's steps in seconds, and ``ride`` are those; None where nobody knows.
    """

    fence: Fence
    state: JobState
    result: JsonObject | None = None
    error: JobError | None = None
    usage: Usage | None = None
    largest_batch: int | None = None
    device_s: float | None = None
    ride: Ride | None = None
    run_at: int | None = None
    charged: bool = True
    company: int | None = None
    crashes: int = 0

    @property
    def back_in_lane(self) -> bool:
        """Whether the job shall run again as soon as its turn comes, among others."""
        return self.state is JobState.QUEUED and self.run_at is None and self.company is None


ENGINE_CRASHED = JobError("engine_crashed", "the process that ran this job died", retryable=True)
LEASE_LOST = JobError("lease_lost", "the worker that ran this job stopped answering", retryable=True)

_OUTCOMES = {ENGINE_CRASHED.code: Outcome.CRASHED, LEASE_LOST.code: Outcome.LEASE_LOST}


def outcome_of(state: JobState, error: JobError | None) -> Outcome:
    """How the attempt ended that left a job in ``state`` with ``error``."""
    if error is not None:
        return _OUTCOMES.get(error.code, Outcome.FAILED)
    return Outcome.GIVEN_BACK if state is JobState.QUEUED else Outcome(state)


def last_attempt(job: Job) -> Attempt | None:
    """The attempt that the job itself still tells of: the one that runs, or the last of one that has ended."""
    if job.worker is None or job.started_at is None:
        return None
    return Attempt(
        claim=job.claims,
        attempt=job.attempt,
        charged=True,
        worker=job.worker,
        started_at=job.started_at,
        ended_at=job.finished_at,
        outcome=outcome_of(job.state, job.error),
        error=job.error,
        device_s=job.device_s,
        ride=job.ride,
    )


def owners_of(tenant: str, key: str | None) -> tuple[str, ...]:
    """Whose limits hold for a tenant's job that came with this key."""
    return (tenant,) if key is None else (tenant, key)


def fence_of(job: Job) -> Fence:
    """The fence of a job that is running."""
    if job.token is None:
        raise ValueError(f"{job.id} is {job.state}, so no claim holds it")
    return Fence(job.id, job.token, job.claims)


def size_of(*documents: Mapping[str, Any] | JobError) -> int:
    """Bytes of documents as JSON."""
    return sum(len(orjson.dumps(document)) for document in documents)


def ended_size(size: int, result: JsonObject | None, error: JobError | None) -> int:
    """Bytes of a job that has ended: the ``size`` that it came with, and what became of it."""
    for part in (result, error):
        if part is not None:
            size += size_of(part)
    return size


def new_job_id() -> str:
    """``job_`` and a UUIDv7 in hex."""
    return f"job_{uuid7_hex()}"


def uuid7_hex() -> str:
    """A UUIDv7 in hex (RFC 9562, sections 5.7 and 6.2, method 3): ids sort by when they were made.

    The 12 bits after the millisecond are its fraction, a quarter of a microsecond each.
    """
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)  # noqa: TID251 - it only orders
    fraction = nanoseconds * 4096 // 1_000_000
    random = int.from_bytes(os.urandom(8), "big") >> 2
    value = milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0x2 << 62 | random
    return f"{value:032x}"
