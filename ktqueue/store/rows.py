"""A job as a row, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from ktqueue.job import Attempt, Job, JobError, JobState, Outcome, Ride, Task, Usage, Verdict, outcome_of
from ktqueue.sql.tables import attempts, jobs
from ktqueue.webhook import EventType, moment

_NAMES = tuple(field.name for field in fields(Job))
JOB_COLUMNS = tuple(jobs.c[name] for name in _NAMES)
"""The columns of `jobs` in the order of Job's fields."""

ATTEMPT_COLUMNS = tuple(attempts.c[field.name] for field in fields(Attempt))
"""The columns of `attempts` in the order of Attempt's fields."""

NEW_ROW = (
    *("id", "model", "task", "state", "priority", "rank", "attempt", "claims", "max_attempts", "created_at", "run_at"),
    *("scheduled_for", "deadline_at", "retry_of", "metadata", "params", "input", "size"),
    *("webhook_url", "webhook_target", "webhook_events", "tenant", "cost", "key"),
)
"""What `row_of` gives."""

_TASK, _STATE, _ERROR, _USAGE, _RIDE = (_NAMES.index(name) for name in ("task", "state", "error", "usage", "ride"))
_STATES = {str(state): state for state in JobState}
_TASKS = {str(task): task for task in Task}


def row_of(job: Job) -> dict[str, Any]:
    """A new job as parameters of an INSERT; what only a claim or an end sets is left out."""
    return {
        "id": job.id,
        "model": job.model,
        "task": str(job.task),
        "state": str(job.state),
        "priority": job.priority,
        "rank": job.rank,
        "attempt": job.attempt,
        "claims": job.claims,
        "max_attempts": job.max_attempts,
        "created_at": job.created_at,
        "run_at": job.run_at,
        "scheduled_for": job.run_at,
        "deadline_at": job.deadline_at,
        "retry_of": job.retry_of,
        "metadata": dict(job.metadata),
        "params": job.params,
        "input": job.input,
        "size": job.size,
        "webhook_url": job.webhook_url,
        "webhook_target": job.webhook_target,
        "webhook_events": job.webhook_events,
        "tenant": job.tenant,
        "cost": job.cost,
        "key": job.key,
    }


def job_of(row: Sequence[Any]) -> Job:
    """A job from a row of JOB_COLUMNS."""
    values = list(row)
    values[_TASK] = _TASKS[values[_TASK]]
    values[_STATE] = _STATES[values[_STATE]]
    if values[_ERROR] is not None:
        values[_ERROR] = JobError(**values[_ERROR])
    if values[_USAGE] is not None:
        values[_USAGE] = Usage(**values[_USAGE])
    if values[_RIDE] is not None:
        values[_RIDE] = Ride(**values[_RIDE])
    return Job(*values)


def progress_row(job_id: str, token: str, progress: float) -> dict[str, Any]:
    """How far a job has come, as parameters of what is left in the outbox."""
    thousandths = moment(EventType.JOB_PROGRESS, 0, progress)
    return {"job_id": job_id, "held_token": token, "so_far": progress, "thousandths": thousandths}


class Running(NamedTuple):
    """What is needed of a running row to know whose it is, to keep its attempt, to bill it and to tell of it."""

    id: str
    token: str
    claims: int
    attempt: int
    worker: str
    started_at: int
    tenant: str
    model: str
    webhook_events: int
    size: int
    key: str | None


def attempt_row(running: Running, verdict: Verdict) -> dict[str, Any]:
    """The attempt that ``verdict`` ends, as parameters of an INSERT; when it ended, the database says."""
    return {
        "job_id": running.id,
        "claim": running.claims,
        "attempt": running.attempt,
        "charged": verdict.charged,
        "worker": running.worker,
        "started_at": running.started_at,
        "outcome": str(outcome_of(verdict.state, verdict.error)),
        "error": error_document(verdict.error),
        "device_s": verdict.device_s,
        "ride": ride_document(verdict.ride),
    }


def attempt_of(row: Sequence[Any]) -> Attempt:
    """An attempt from a row of ATTEMPT_COLUMNS."""
    *values, outcome, error, device_s, ride = row
    values += [Outcome(outcome), None if error is None else JobError(**error)]
    values += [device_s, None if ride is None else Ride(**ride)]
    return Attempt(*values)


def error_document(error: JobError | None) -> dict[str, Any] | None:
    """A JobError as JSON."""
    if error is None:
        return None
    return {"code": error.code, "message": error.message, "retryable": error.retryable}


def ride_document(ride: Ride | None) -> dict[str, float] | None:
    """A Ride as JSON."""
    if ride is None:
        return None
    return {"steps": ride.steps, "smallest": ride.smallest, "mean": ride.mean, "largest": ride.largest}


def usage_document(usage: Usage | None) -> dict[str, int] | None:
    """A Usage as JSON."""
    if usage is None:
        return None
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
