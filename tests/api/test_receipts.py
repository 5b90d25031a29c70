"""/api/v1/jobs/{id}/receipt."""

from __future__ import annotations

from ktqueue.job import JobError, Ride, Usage
from tests.api.wiring import JOBS, Api, json_of, problem_of


def test_a_receipt_tells_each_attempt_and_their_sum(api: Api) -> None:
    job_id = api.accepted({"model": "echo", "input": {"say": "hi"}, "max_attempts": 2})["id"]
    api.scene.clock.sleep(1.5)
    execution = api.scene.execution
    (first,) = api.scene.claim()
    api.scene.clock.sleep(0.25)
    busy = JobError("busy", "try again", retryable=True)
    execution.settle([execution.failure(first, busy, 0.1234567, Ride(3, 1, 1.667, 2))])
    api.scene.clock.sleep(30)
    api.scene.sweep()
    (second,) = api.scene.claim(token="t2")
    api.scene.clock.sleep(1.0)
    execution.settle([execution.success(second, {}, Usage(3, 4), 9, device_s=0.5, ride=Ride(40, 2, 6.5, 9))])

    assert json_of(api.client.get(f"{JOBS}/{job_id}/receipt"), 200) == {
        "id": job_id,
        "object": "receipt",
        "model": "echo",
        "state": "succeeded",
        "queued_ms": 31_500,
        "run_ms": 1_250,
        "device_seconds": 0.623457,
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "device_seconds": 0.5},
        "attempts": [
            {
                "claim": 1,
                "outcome": "failed",
                "worker": "worker of t",
                "started_at": "2025-06-15T15:06:41.500Z",
                "queued_ms": 1_500,
                "run_ms": 250,
                "device_seconds": 0.123457,
                "steps": 3,
                "batch": {"smallest": 1, "mean": 1.667, "largest": 2},
            },
            {
                "claim": 2,
                "outcome": "succeeded",
                "worker": "worker of t2",
                "started_at": "2025-06-15T15:07:11.750Z",
                "queued_ms": 30_000,
                "run_ms": 1_000,
                "device_seconds": 0.5,
                "steps": 40,
                "batch": {"smallest": 2, "mean": 6.5, "largest": 9},
            },
        ],
    }
    job = json_of(api.client.get(f"{JOBS}/{job_id}"), 200)
    assert (job["timing"]["steps"], job["timing"]["mean_batch"]) == (40, 6.5)
    assert job["links"]["receipt"] == f"{JOBS}/{job_id}/receipt"


def test_one_that_waits_has_a_receipt_of_its_wait(api: Api) -> None:
    job_id = api.accepted()["id"]
    api.scene.clock.sleep(2.0)
    told = json_of(api.client.get(f"{JOBS}/{job_id}/receipt"), 200)
    assert (told["state"], told["queued_ms"], told["attempts"], told["usage"]) == ("queued", 2_000, [], None)


def test_there_is_none_of_a_job_that_is_not_there(api: Api) -> None:
    assert problem_of(api.client.get(f"{JOBS}/job_{'0' * 32}/receipt"), 404)["code"] == "not_found"
    assert problem_of(api.client.get(f"{JOBS}/nonsense/receipt"), 404)["code"] == "not_found"
