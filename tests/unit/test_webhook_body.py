"""The bodies of webhooks: whole, bounded, and the same at every attempt, whatever became of the job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from ktqueue.job import Job, JobState
from ktqueue.outbox.base import Delivery, DeliveryQuery
from ktqueue.representation import job_body
from ktqueue.webhook import EventType, Webhook
from ktqueue.webhook_body import MOST_BYTES, body_of, trial_body
from tests.support.scene import Scene

ALL = EventType(127)
WEBHOOK = Webhook("https://receiver.example/hook", "https://receiver.example:443", ALL)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def deliveries(scene: Scene, job: Job) -> dict[EventType, Delivery]:
    return {each.type: each for each in scene.true_outbox.deliveries(DeliveryQuery(job_id=job.id))}


def finished(scene: Scene, **result: Any) -> Job:
    (job,) = scene.claim()
    scene.execution.settle([scene.execution.success(job, result, None, 1)])
    return scene.row(job)


def said(scene: Scene, job: Job, kind: EventType) -> Any:
    return orjson.loads(body_of(deliveries(scene, job)[kind], scene.row(job)))


def test_the_end_tells_the_job_as_the_api_does(scene: Scene) -> None:
    job = scene.submit(webhook=WEBHOOK, metadata={"team": "a"})
    job = finished(scene, said="hi")
    event = said(scene, job, EventType.JOB_SUCCEEDED)
    assert set(event) == {"id", "type", "timestamp", "data"}
    assert event["id"] == f"evt_{job.id[4:]}_1001000"
    assert event["type"] == "job.succeeded"
    assert event["timestamp"] == event["data"]["finished_at"]
    assert event["data"] == orjson.loads(orjson.dumps(job_body(job)))


def test_earlier_events_say_the_same_however_the_job_went_on(scene: Scene) -> None:
    later = scene.clock.ms + 5_000
    job = scene.submit(webhook=WEBHOOK, run_at=later)
    kinds = (EventType.JOB_QUEUED, EventType.JOB_STARTED, EventType.JOB_PROGRESS)
    before = {kind: body_of(deliveries(scene, job)[kind], scene.row(job)) for kind in kinds[:1]}
    scene.clock.ms += 6_000
    scene.sweep()
    (running,) = scene.claim()
    scene.execution.tell_progress("t", {running.id: 0.25})
    before |= {kind: body_of(deliveries(scene, job)[kind], scene.row(job)) for kind in kinds[1:]}
    scene.execution.give_back([running])
    scene.clock.ms += 1_000
    finished(scene, said="hi")
    after = {kind: body_of(deliveries(scene, job)[kind], scene.row(job)) for kind in kinds}
    assert after == before
    queued, started, progress = (orjson.loads(after[kind])["data"] for kind in kinds)
    assert (queued["state"], queued["attempt"], queued["started_at"], queued["result"]) == ("queued", 0, None, None)
    assert queued["run_at"] is not None
    assert (started["state"], started["attempt"], started["progress"]) == ("running", 1, None)
    assert (progress["state"], progress["progress"]) == ("running", 0.25)


def test_a_large_result_is_told_by_its_link(scene: Scene) -> None:
    scene.submit(webhook=WEBHOOK)
    job = finished(scene, text="x" * MOST_BYTES)
    data = said(scene, job, EventType.JOB_SUCCEEDED)["data"]
    assert data["result"] is None
    assert data["links"]["result"] == f"/api/v1/jobs/{job.id}"
    assert data["input"] == job.input


def test_a_large_input_is_left_out_as_well(scene: Scene) -> None:
    scene.submit(webhook=WEBHOOK, input={"text": "y" * MOST_BYTES})
    job = finished(scene, text="x" * MOST_BYTES)
    body = body_of(deliveries(scene, job)[EventType.JOB_SUCCEEDED], job)
    assert len(body) <= MOST_BYTES
    data = orjson.loads(body)["data"]
    assert (data["result"], data["input"]) == (None, None)
    queued = said(scene, job, EventType.JOB_QUEUED)["data"]
    assert queued["input"] is None
    assert "result" not in queued["links"]


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED])
def test_every_end_has_a_name(scene: Scene, state: JobState) -> None:
    job = scene.submit(webhook=WEBHOOK)
    ended = replace(job, state=state, finished_at=scene.clock.ms)
    scene.true_outbox.note([ended])
    event = orjson.loads(body_of(deliveries(scene, job)[EventType[f"JOB_{state.name}"]], ended))
    assert event["type"] == f"job.{state}"
    assert event["data"]["state"] == state


def test_a_trial_names_its_endpoint(scene: Scene) -> None:
    delivery = replace(
        deliveries(scene, scene.submit(webhook=WEBHOOK))[EventType.JOB_QUEUED], job_id="", endpoint="whe_1"
    )
    event = orjson.loads(trial_body(replace(delivery, type=EventType.TEST)))
    assert event["type"] == "webhook.test"
    assert event["data"] == {"object": "webhook_test", "endpoint": "whe_1"}
