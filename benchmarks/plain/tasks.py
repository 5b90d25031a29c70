"""One message a job, and one a webhook."""

from __future__ import annotations

import json
import os
import time

import httpx
from celery import Celery

from benchmarks.plain.jobs import Job, Session
from benchmarks.plain.webhooks import event_of, signed

TIMEOUT_S = 15.0

celery = Celery("plain", broker=os.environ["PLAIN_BROKER_URL"])
celery.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=16,  # of 1, 4, 16 and 64 the one that costs least a job here
)


@celery.task
def run(job_id: int) -> None:
    """The no-op: the result is the input, after the ``delay_ms`` in it, if there are any."""
    with Session.begin() as session:
        job = session.get_one(Job, job_id)
        if job.state == "succeeded":
            return  # a message may come twice
        time.sleep(job.input.get("delay_ms", 0) / 1000)
        job.result = job.input
        job.state = "succeeded"
        job.finished_at = time.time()
    if job.webhook is not None:
        send_webhook.delay(job.webhook, json.dumps(event_of(job)))


@celery.task(autoretry_for=(httpx.HTTPError,), retry_backoff=True, acks_late=True)
def send_webhook(url: str, body: str) -> None:
    """POST an event; Celery tries again, later and later, what was not answered with success."""
    content = body.encode()
    httpx.post(url, content=content, headers=signed(content), timeout=TIMEOUT_S).raise_for_status()


client = httpx.Client(timeout=TIMEOUT_S)


@celery.task(autoretry_for=(httpx.HTTPError,), retry_backoff=True, acks_late=True)
def send_webhook_kept(url: str, body: str) -> None:
    """The same by one who knows that a client may be kept, with its connections."""
    content = body.encode()
    client.post(url, content=content, headers=signed(content)).raise_for_status()
