"""POST /api/v1/jobs, when all is well. Invariants 1 (a 2xx is a committed row) and 5 (one key, one job)."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from threading import Barrier, Thread
from typing import Any

import pytest

from ktqueue.job import JsonObject
from ktqueue.store.base import JobQuery
from tests.api.wiring import JOBS, Api, json_of, problem_of
from tests.support.scene import ended

ECHO: JsonObject = {"model": "echo", "input": {"say": "hi"}}
QUEUED = {
    "object": "job",
    "model": "echo",
    "task": "echo",
    "state": "queued",
    "input": {"say": "hi"},
    "params": {},
    "result": None,
    "error": None,
    "priority": 5,
    "attempt": 0,
    "max_attempts": 3,
    "position": None,
    "eta_seconds": None,
    "progress": None,
    "created_at": "2025-06-15T15:06:40.000Z",
    "run_at": None,
    "started_at": None,
    "finished_at": None,
    "deadline_at": None,
    "metadata": {},
    "webhook": None,
    "usage": None,
    "timing": {"queued_ms": None, "run_ms": None, "largest_batch": None, "steps": None, "mean_batch": None},
    "retry_of": None,
}


def test_an_accepted_job_is_told_in_full_and_committed(api: Api) -> None:
    answer = api.submit(ECHO)

    job = json_of(answer, 202)
    path = f"{JOBS}/{job['id']}"
    names = ("cancel", "events", "attempts", "receipt", "deliveries")
    links = {"self": path} | {name: f"{path}/{name}" for name in names}
    assert job == QUEUED | {"id": job["id"], "links": links}
    assert answer.headers["Location"] == path
    assert answer.headers["Retry-After"] == "1"
    assert "Preference-Applied" not in answer.headers
    assert api.scene.true_store.get(job["id"]) is not None
    assert api.scene.waiting() == [job["id"]]


def test_everything_that_can_be_said_of_a_job_is_kept(api: Api) -> None:
    job = api.accepted(
        ECHO
        | {
            "task": "echo",
            "params": {"delay_ms": 5, "fail": "retryable"},
            "priority": 9,
            "max_attempts": 10,
            "metadata": {"k": "v", "key with spaces and 'quotes\"": "é"},
            "deadline_seconds": 0.5,
            "run_at": "2025-06-15T17:06:40.25+01:00",
        }
    )

    assert job["params"] == {"delay_ms": 5, "fail": "retryable"}
    assert (job["priority"], job["max_attempts"]) == (9, 10)
    assert job["metadata"] == {"k": "v", "key with spaces and 'quotes\"": "é"}
    assert job["deadline_at"] == "2025-06-15T15:06:40.500Z"
    assert job["run_at"] == "2025-06-15T16:06:40.250Z"
    assert api.scene.waiting() == []


@pytest.mark.parametrize(
    ("body", "task"),
    [
        ({"model": "chat", "input": {"prompt": "Once"}}, "generate"),
        (
            {
                "model": "chat",
                "input": {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}]},
                "params": {
                    "max_tokens": 2048,
                    "temperature": 0,
                    "top_p": 1,
                    "top_k": 0,
                    "seed": 2**63 - 1,
                    "stop": ["a", "b", "c", "d"],
                    "stop_token_ids": [0, 999_999_999],
                    "ignore_eos": True,
                    "min_tokens": 32768,
                    "min_p": 0.05,
                    "repetition_penalty": 1.1,
                    "presence_penalty": -2,
                    "frequency_penalty": 2,
                    "logit_bias": {"0": -100, "999999999": 0.5},
                    "logprobs": True,
                    "top_logprobs": 20,
                    "n": 16,
                },
            },
            "generate",
        ),
        ({"model": "chat", "input": {"prompt": "Once"}, "params": {"stop": "."}}, "generate"),
        ({"model": "encoder", "input": {"text": "one"}, "params": {"normalize": False, "dimensions": 8}}, "embed"),
        ({"model": "encoder", "input": {"texts": ["a"] * 2048}}, "embed"),
        ({"model": "encoder", "task": "classify", "input": {"texts": ["a"]}, "params": {"top_k": 1}}, "classify"),
        (
            {"model": "encoder", "task": "rerank", "input": {"query": "q", "documents": ["d"]}, "params": {"top_n": 1}},
            "rerank",
        ),
        ({"model": "echo", "input": {}}, "echo"),
        ({"model": "echo", "input": {"any": [{"thing": [1, 2.5, None, True, "\U0001f600"]}]}}, "echo"),
    ],
)
def test_each_task_gets_its_input_and_params_as_they_were_given(api: Api, body: JsonObject, task: str) -> None:
    job = api.accepted(body)

    assert job["task"] == task
    assert job["input"] == body["input"]
    assert job["params"] == body.get("params", {})


def test_a_content_type_may_name_its_charset(api: Api) -> None:
    assert api.raw(b'{"model":"echo","input":{}}', content_type="Application/JSON; charset=utf-8").status_code == 202


def test_a_body_of_unknown_length_is_read_to_its_end(api: Api) -> None:
    answer = api.client.post(
        JOBS,
        input_stream=BytesIO(b'{"model":"echo","input":{"n":1}}'),
        content_type="application/json",
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )

    assert json_of(answer, 202)["input"] == {"n": 1}


def test_retry_after_grows_with_what_waits(api: Api) -> None:
    api.scene.true_lanes.count_finished("echo", ended(10))
    for _ in range(60):
        api.accepted()
    api.scene.clock.sleep(1)

    assert int(api.submit(ECHO).headers["Retry-After"]) > 10


# --- Prefer ----------------------------------------------------------------------------------------------------


class Worker(Thread):
    """Lets echo jobs succeed as soon as they wait."""

    def __init__(self, api: Api, jobs: int) -> None:
        super().__init__()
        self._api = api
        self._left = jobs

    def run(self) -> None:
        while self._left:
            claimed = self._api.scene.claim()
            execution = self._api.scene.execution
            execution.settle([execution.success(job, job.input, None, 1) for job in claimed])
            self._left -= len(claimed)


def test_a_job_that_ends_within_the_preferred_wait_is_answered_finished(api: Api) -> None:
    worker = Worker(api, 1)
    worker.start()
    answer = api.submit(ECHO, Prefer="wait=60")
    worker.join()

    job = json_of(answer, 200)
    assert (job["state"], job["result"]) == ("succeeded", {"say": "hi"})
    assert answer.headers["Preference-Applied"] == "wait=60"
    assert answer.headers["Location"] == f"{JOBS}/{job['id']}"
    assert "Retry-After" not in answer.headers


def test_a_wait_that_runs_out_is_answered_with_the_job_as_it_is(api: Api) -> None:
    answer = api.submit(ECHO, Prefer="respond-async, wait=0")

    assert json_of(answer, 202)["state"] == "queued"
    assert answer.headers["Preference-Applied"] == "respond-async, wait=0"
    assert "Retry-After" in answer.headers


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [
        ("respond-async", "respond-async"),
        ("RESPOND-ASYNC;x=1", "respond-async"),
        ("wait=soon", None),
        ("wait", None),
        ("wait=-1", None),
        ("return=minimal, handling=lenient", None),
        ('wait="0", wait=60', "wait=0"),
        (",,=;", None),
    ],
)
def test_preferences_that_are_not_understood_are_ignored(api: Api, prefer: str, applied: str | None) -> None:
    answer = api.submit(ECHO, Prefer=prefer)

    assert answer.status_code == 202
    assert answer.headers.get("Preference-Applied") == applied


def test_beyond_the_bound_a_wait_is_answered_at_once() -> None:
    answer = Api(max_waits=0).submit(ECHO, Prefer="wait=60")

    assert json_of(answer, 202)["state"] == "queued"
    assert "Preference-Applied" not in answer.headers


def test_a_database_that_goes_away_during_the_wait_does_not_unaccept_the_job(api: Api) -> None:
    api.scene.sql.go("get")

    answer = api.submit(ECHO, Prefer="wait=60")

    assert json_of(answer, 202)["state"] == "queued"
    assert "Preference-Applied" not in answer.headers


def test_a_job_that_is_deleted_during_the_wait_was_accepted(api: Api) -> None:
    def delete(name: str) -> None:
        if name == "get":
            for job in api.scene.true_store.search(JobQuery()):
                api.scene.true_store.cancel(job.id)
                api.scene.true_store.delete(job.id)

    api.scene.sql.before = delete

    assert json_of(api.submit(ECHO, Prefer="wait=60"), 202)["state"] == "queued"


# --- Idempotency-Key -------------------------------------------------------------------------------------------


def test_a_replay_is_answered_with_the_first_job_as_it_now_is(api: Api) -> None:
    first = api.submit(ECHO, Idempotency_Key="k")
    api.succeed()
    again = api.raw(b'{ "input": {"say": "hi"},\n "model": "echo" }', headers={"Idempotency-Key": "k"})

    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    job = json_of(again, 202)
    assert (job["id"], job["state"]) == (json_of(first, 202)["id"], "succeeded")
    waited = api.submit(ECHO, Idempotency_Key="k", Prefer="wait=5")
    assert json_of(waited, 200)["id"] == job["id"]
    assert waited.headers["Idempotency-Replayed"] == "true"


def test_a_replay_is_answered_while_its_lane_is_full() -> None:
    api = Api(max_queued=1)
    first = json_of(api.submit(ECHO, Idempotency_Key="k"), 202)
    assert api.submit(ECHO, Idempotency_Key="other").status_code == 429

    again = api.submit(ECHO, Idempotency_Key="k")
    assert json_of(again, 202)["id"] == first["id"]
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_key_is_good_for_one_request_only(api: Api) -> None:
    first = json_of(api.submit(ECHO, Idempotency_Key="k"), 202)
    problem = problem_of(api.submit(ECHO | {"priority": 1}, Idempotency_Key="k"), 422)

    assert (problem["code"], problem["field"]) == ("idempotency_mismatch", "Idempotency-Key")
    assert api.scene.waiting() == [first["id"]]


@pytest.mark.parametrize("key", ["~", "x" * 255, "!#$%&'*+-.^_`|\"(),/:;<=>?@[\\]{}"])
def test_any_visible_ascii_makes_a_key(api: Api, key: str) -> None:
    assert api.submit(ECHO, Idempotency_Key=key).status_code == 202


def test_one_key_makes_one_job_under_concurrency(api: Api) -> None:
    start = Barrier(8)

    def submit(_: int) -> Any:
        start.wait()
        return api.app.test_client().post(JOBS, json=ECHO, headers={"Idempotency-Key": "k"}).get_json()["id"]

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(submit, range(8)))

    assert api.scene.waiting() == list(ids)
    assert len(ids) == 1


# --- too late --------------------------------------------------------------------------------------------------


def test_a_job_that_would_be_late_and_would_rather_not_be_is_refused_at_once(api: Api) -> None:
    api.scene.true_lanes.count_finished("echo", ended(10))
    for _ in range(60):
        api.accepted()
    late = ECHO | {"deadline_seconds": 5, "reject_if_late": True, "priority": 0}

    answer = api.submit(late)
    assert problem_of(answer, 429)["code"] == "too_late"
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    api.accepted(late | {"priority": 9})

    [line] = api.bulk(json.dumps(late).encode()).get_data(as_text=True).splitlines()
    assert json.loads(line)["error"]["code"] == "too_late"


def test_who_would_rather_not_be_late_says_when_that_is(api: Api) -> None:
    problem = problem_of(api.submit(ECHO | {"reject_if_late": True}), 422)

    assert problem["errors"] == [{"field": "reject_if_late", "message": "needs deadline_seconds"}]
