"""What the demo makes of the callbacks it got."""

from __future__ import annotations

from datetime import datetime
from threading import Thread

import pytest

from ktqueue.client import Job
from ktqueue.demo import Callbacks, complaints
from ktqueue.receiver import Received
from tests.support.client import job_json

FINISHED = "2026-01-02T03:04:06.500Z"
JOBS = [Job.model_validate(job_json(f"job_{n}", "succeeded", finished_at=FINISHED)) for n in range(2)]


def callback(job: Job, delay_s: float) -> Received:
    body = {"timestamp": FINISHED, "data": {"id": job.id, "finished_at": FINISHED}}
    return Received("evt", "job.succeeded", body, datetime.fromisoformat(FINISHED).timestamp() + delay_s)


def test_all_is_well_once_every_job_was_told_of() -> None:
    callbacks = Callbacks()

    def receive() -> None:
        for job in [*JOBS, JOBS[0]]:
            callbacks.take(callback(job, 0.25))

    later = Thread(target=receive)
    later.start()
    callbacks.wait_for(JOBS)
    later.join()
    assert complaints(JOBS, callbacks) == []
    assert callbacks.delays_ms(JOBS) == pytest.approx([250, 250])


def test_it_complains_of_a_job_that_failed_one_not_told_of_and_one_told_of_by_another() -> None:
    callbacks = Callbacks()
    callbacks.take(callback(JOBS[0], 0.01))
    callbacks.refusals.append("it does not verify")
    failed = Job.model_validate(job_json("job_0", "failed"))
    assert complaints([failed, JOBS[1]], callbacks) == [
        "job_0 of echo failed: it broke",
        "no callback came for job_1",
        "the receiver refused a request: it does not verify",
    ]
    assert len(callbacks.delays_ms(JOBS)) == 1
