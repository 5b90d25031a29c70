"""What the store in memory asks of jobs, as the statements of the others ask it of rows; and its counts. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from ktqueue.job import Fence, Job, JobState, ended_size
from ktqueue.store.base import Census, JobQuery, LaneCensus


def is_due(job: Job, due_at: Mapping[str, int], now: int) -> bool:
    """Whether it waits and its time has come; ``due_at`` is by id."""
    return job.state is JobState.QUEUED and due_at[job.id] <= now


def is_overdue(job: Job, now: int) -> bool:
    """Whether its deadline has passed."""
    return job.deadline_at is not None and job.deadline_at <= now


def has_lapsed(job: Job, now: int) -> bool:
    """Whether it runs, and its lease has run out."""
    return job.state is JobState.RUNNING and job.lease_until is not None and job.lease_until <= now


def holds(fence: Fence, job: Job) -> bool:
    """Whether it still runs under this claim."""
    return job.state is JobState.RUNNING and (job.token, job.claims) == (fence.token, fence.claim)


def matches(job: Job, query: JobQuery) -> bool:
    """Whether it is asked for."""
    return (
        query.tenant in {None, job.tenant}
        and (not query.ids or job.id in query.ids)
        and (not query.states or job.state in query.states)
        and (query.model is None or job.model == query.model)
        and (query.created_from is None or job.created_at >= query.created_from)
        and (query.created_to is None or job.created_at < query.created_to)
        and query.metadata.items() <= job.metadata.items()
        and (query.before is None or job.id < query.before)
    )


def census_of_lane(model: str, jobs: Sequence[Job], due_at: Mapping[str, int], now: int) -> LaneCensus:
    """What there is of a lane's ``jobs`` that have not ended; ``due_at`` is by id."""
    queued = [job for job in jobs if job.state is JobState.QUEUED]
    waiting = [job for job in queued if is_due(job, due_at, now)]
    due = [due_at[job.id] for job in waiting if job.company is None]
    return LaneCensus(
        model=model,
        queued=len(queued),
        due=len(due),
        suspects=len(waiting) - len(due),
        running=len(jobs) - len(queued),
        size=sum(job.size for job in queued),
        oldest_due_at=min(due, default=None),
    )


def census_of(whose: str, jobs: Sequence[Job]) -> Census:
    """What there is of the ``jobs`` of a tenant or a key."""
    queued = [job for job in jobs if job.state is JobState.QUEUED]
    return Census(
        whose,
        queued=len(queued),
        running=sum(job.state is JobState.RUNNING for job in jobs),
        size=sum(job.size for job in queued),
        stored=sum(ended_size(job.size, job.result, job.error) for job in jobs),
    )


def as_stored(job: Job) -> Job:
    """A job as a database would give it back."""
    return replace(job, input=through_json(job.input), params=through_json(job.params), metadata=dict(job.metadata))


def through_json(document: Any) -> Any:
    """A copy as a database would give it back; refuses what is not JSON."""
    return orjson.loads(orjson.dumps(document))
