"""A job as clients see it."""

from __future__ import annotations

from ktqueue.bodies import (
    AttemptBody,
    BatchBody,
    ErrorBody,
    JobBody,
    ReceiptAttempt,
    ReceiptBody,
    TimingBody,
    UsageBody,
    WebhookBody,
)
from ktqueue.job import Attempt, Job, JobError, Place, Ride
from ktqueue.receipt import Leg, Receipt
from ktqueue.times import rfc3339
from ktqueue.webhook import Webhook, titles_of

JOBS = "/api/v1/jobs"
UNKNOWN = Place()


def path_of(job_id: str) -> str:
    """Where a job is found."""
    return f"{JOBS}/{job_id}"


def job_body(job: Job, place: Place = UNKNOWN, progress: float | None = None) -> JobBody:
    """The JSON of one job; ``place`` and ``progress`` are left null unless they were asked for."""
    path = path_of(job.id)
    return {
        "id": job.id,
        "object": "job",
        "model": job.model,
        "task": job.task,
        "state": job.state,
        "input": job.input,
        "params": job.params,
        "result": job.result,
        "error": _error(job.error),
        "priority": job.priority,
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "position": place.position,
        "eta_seconds": None if place.eta_s is None else round(place.eta_s, 1),
        "progress": progress,
        "created_at": rfc3339(job.created_at),
        "run_at": _time(job.run_at),
        "started_at": _time(job.started_at),
        "finished_at": _time(job.finished_at),
        "deadline_at": _time(job.deadline_at),
        "metadata": dict(job.metadata),
        "webhook": _webhook(job.webhook),
        "usage": _usage(job),
        "timing": _timing(job),
        "retry_of": job.retry_of,
        "links": {
            "self": path,
            "cancel": f"{path}/cancel",
            "events": f"{path}/events",
            "attempts": f"{path}/attempts",
            "receipt": f"{path}/receipt",
            "deliveries": f"{path}/deliveries",
        },
    }


def attempt_body(attempt: Attempt) -> AttemptBody:
    """The JSON of one attempt."""
    return {
        "claim": attempt.claim,
        "attempt": attempt.attempt,
        "charged": attempt.charged,
        "worker": attempt.worker,
        "started_at": rfc3339(attempt.started_at),
        "ended_at": _time(attempt.ended_at),
        "outcome": attempt.outcome.value,
        "error": _error(attempt.error),
    }


def receipt_body(receipt: Receipt) -> ReceiptBody:
    """The JSON of a receipt."""
    job = receipt.job
    return {
        "id": job.id,
        "object": "receipt",
        "model": job.model,
        "state": job.state,
        "queued_ms": receipt.queued_ms,
        "run_ms": receipt.run_ms,
        "device_seconds": round(receipt.device_s, 6),
        "usage": _usage(job),
        "attempts": [_leg(leg) for leg in receipt.legs],
    }


def _leg(leg: Leg) -> ReceiptAttempt:
    attempt = leg.attempt
    return {
        "claim": attempt.claim,
        "outcome": attempt.outcome.value,
        "worker": attempt.worker,
        "started_at": rfc3339(attempt.started_at),
        "queued_ms": leg.queued_ms,
        "run_ms": leg.run_ms,
        "device_seconds": None if attempt.device_s is None else round(attempt.device_s, 6),
        "steps": None if attempt.ride is None else attempt.ride.steps,
        "batch": _batch(attempt.ride),
    }


def _batch(ride: Ride | None) -> BatchBody | None:
    return None if ride is None else {"smallest": ride.smallest, "mean": ride.mean, "largest": ride.largest}


def _time(instant: int | None) -> str | None:
    return None if instant is None else rfc3339(instant)


def _error(error: JobError | None) -> ErrorBody | None:
    if error is None:
        return None
    return {"code": error.code, "message": error.message, "retryable": error.retryable}


def _webhook(webhook: Webhook | None) -> WebhookBody | None:
    return None if webhook is None else {"url": webhook.url, "events": titles_of(webhook.events)}


def _usage(job: Job) -> UsageBody | None:
    usage, device_s = job.usage, job.device_s
    if usage is None and device_s is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens if usage else 0,
        "completion_tokens": usage.completion_tokens if usage else 0,
        "device_seconds": round(device_s or 0.0, 6),
    }


def _timing(job: Job) -> TimingBody:
    started = job.started_at
    return {
        "queued_ms": None if started is None else started - job.created_at,
        "run_ms": None if started is None or job.finished_at is None else job.finished_at - started,
        "largest_batch": job.largest_batch,
        "steps": None if job.ride is None else job.ride.steps,
        "mean_batch": None if job.ride is None else job.ride.mean,
    }
