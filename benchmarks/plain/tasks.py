"""One message a job."""

from __future__ import annotations

import os
import time

from celery import Celery

from benchmarks.plain.jobs import Job, Session

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
