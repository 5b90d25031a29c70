"""What a webhook says: the same bytes at every attempt, told from what never changes. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson

from ktqueue.job import Job, JobState
from ktqueue.outbox.base import Delivery
from ktqueue.representation import job_body, path_of
from ktqueue.times import rfc3339
from ktqueue.webhook import TERMINAL, EventType, event_id

MOST_BYTES = 20_000
"""A body larger than this is told with links in place of what is large (Standard Webhooks, "Payload size")."""

_STATES = {
    EventType.JOB_QUEUED: JobState.QUEUED,
    EventType.JOB_STARTED: JobState.RUNNING,
    EventType.JOB_PROGRESS: JobState.RUNNING,
}


def body_of(delivery: Delivery, job: Job) -> bytes:
    """The event of ``delivery`` as JSON, ``job`` being its job as it is now."""
    data: dict[str, Any] = dict(job_body(_as_it_was(job, delivery), progress=delivery.progress))
    body = _event(delivery, data)
    if len(body) > MOST_BYTES and data["result"] is not None:
        data |= {"result": None, "links": {**data["links"], "result": path_of(job.id)}}
        body = _event(delivery, data)
    if len(body) > MOST_BYTES:
        body = _event(delivery, data | {"input": None})
    return body


def trial_body(delivery: Delivery) -> bytes:
    """The event that is sent to try out an endpoint."""
    return _event(delivery, {"object": "webhook_test", "endpoint": delivery.endpoint})


def _event(delivery: Delivery, data: dict[str, Any]) -> bytes:
    return orjson.dumps(
        {
            "id": event_id(delivery.job_id, delivery.seq, delivery.endpoint),
            "type": delivery.type.title,
            "timestamp": rfc3339(delivery.at),
            "data": data,
        }
    )


def _as_it_was(job: Job, delivery: Delivery) -> Job:
    """The job at the moment of the event, however it fared since; one that has ended has not changed."""
    if delivery.type in TERMINAL:
        return job
    return replace(
        job,
        state=_STATES[delivery.type],
        attempt=delivery.attempt,
        started_at=delivery.started_at,
        run_at=delivery.run_at,
        finished_at=None,
        result=None,
        error=None,
        usage=None,
        largest_batch=None,
        device_s=None,
        ride=None,
    )
