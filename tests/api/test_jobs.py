"""Looking at jobs, listing, cancelling, retrying and deleting them."""

from __future__ import annotations

from threading import Thread

import pytest

from api.listing import PAGE_BYTES
from ktqueue.events.base import Event, EventId
from ktqueue.job import JobError, JsonObject, Usage
from tests.api.wiring import JOBS, Api, json_of, problem_of
from tests.support.scene import ended

NOBODY = f"{JOBS}/job_{'0' * 32}"


def ids(page: JsonObject) -> list[str]:
    return [job["id"] for job in page["data"]]


def listed(api: Api, **query: str | int | list[str]) -> JsonObject:
    return json_of(api.client.get(JOBS, query_string=query), 200)


# --- one job ---------------------------------------------------------------------------------------------------


def test_a_waiting_job_tells_its_place_and_when_its_turn_may_come(api: Api) -> None:
    api.scene.true_lanes.count_finished("echo", ended(10))
    jobs = [api.accepted() for _ in range(8)]

    answer = api.client.get(f"{JOBS}/{jobs[7]['id']}")

    job = json_of(answer, 200)
    assert job["position"] == 7
    assert job["eta_seconds"] == 4.0
    assert answer.headers["Retry-After"] == "4"


def test_a_running_job_tells_its_progress(api: Api) -> None:
    job_id = api.accepted()["id"]
    api.scene.clock.sleep(1.5)
    api.scene.claim()
    api.scene.true_events.publish([Event(job_id, EventId(1, 5), "progress", {"progress": 0.25})])

    job = api.job(job_id)

    assert (job["state"], job["progress"], job["attempt"], job["position"]) == ("running", 0.25, 1, None)
    assert job["started_at"] == "2025-06-15T15:06:41.500Z"
    assert job["timing"] == {
        "queued_ms": 1500,
        "run_ms": None,
        "largest_batch": None,
        "steps": None,
        "mean_batch": None,
    }


def test_a_finished_job_tells_its_result_usage_and_timing(api: Api) -> None:
    job_id = api.accepted()["id"]
    (claimed,) = api.scene.claim()
    api.scene.clock.sleep(2)
    api.scene.execution.settle([api.scene.execution.success(claimed, {"text": "é"}, Usage(3, 4), 17)])

    answer = api.client.get(f"{JOBS}/{job_id}")

    job = json_of(answer, 200)
    assert (job["state"], job["result"], job["error"], job["progress"]) == ("succeeded", {"text": "é"}, None, None)
    assert job["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "device_seconds": 0.0}
    assert job["timing"] == {"queued_ms": 0, "run_ms": 2000, "largest_batch": 17, "steps": None, "mean_batch": None}
    assert "Retry-After" not in answer.headers


def test_a_failed_job_tells_why(api: Api) -> None:
    job_id = api.accepted()["id"]
    api.fail()

    assert api.job(job_id)["error"] == {"code": "bad", "message": "never", "retryable": False}


def test_an_unchanged_job_is_not_sent_again(api: Api) -> None:
    path = f"{JOBS}/{api.accepted()['id']}"
    tag = api.client.get(path).headers["ETag"]

    for given in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        answer = api.client.get(path, headers={"If-None-Match": given})
        assert (answer.status_code, answer.data, answer.headers["ETag"]) == (304, b"", tag)
        assert answer.headers["Retry-After"] == "1"

    api.scene.claim()
    changed = api.client.get(path, headers={"If-None-Match": tag})
    assert json_of(changed, 200)["state"] == "running"
    assert changed.headers["ETag"] != tag


def test_head_says_what_get_says_without_the_body(api: Api) -> None:
    path = f"{JOBS}/{api.accepted()['id']}"
    head, get = api.client.head(path), api.client.get(path)

    assert (head.status_code, head.data) == (200, b"")
    assert head.headers == get.headers


def test_a_long_poll_is_answered_when_the_job_ends(api: Api) -> None:
    job_id = api.accepted()["id"]
    worker = Thread(target=api.succeed)
    worker.start()
    answer = api.client.get(f"{JOBS}/{job_id}?wait=60")
    worker.join()

    assert json_of(answer, 200)["state"] == "succeeded"


def test_beyond_the_bound_a_long_poll_is_answered_at_once() -> None:
    api = Api(max_waits=0)

    assert json_of(api.client.get(f"{JOBS}/{api.accepted()['id']}?wait=60"), 200)["state"] == "queued"


def test_a_place_to_wait_is_given_back(api: Api) -> None:
    api = Api(max_waits=1)
    job_id = api.accepted()["id"]
    api.succeed()

    for _ in range(3):
        assert json_of(api.client.get(f"{JOBS}/{job_id}?wait=60"), 200)["state"] == "succeeded"
        assert api.client.get(f"{NOBODY}?wait=60").status_code == 404
    stream = api.client.get(f"{JOBS}/{job_id}/events")
    assert stream.status_code == 200


@pytest.mark.parametrize("wait", ["61", "-1", "1.5", "", "x", "٣", "9" * 5000])
def test_a_bad_wait(api: Api, wait: str) -> None:
    problem = problem_of(api.client.get(NOBODY, query_string={"wait": wait}), 422)

    assert problem["field"] == "wait"
    assert "from 0 to 60" in problem["detail"]


@pytest.mark.parametrize("job_id", ["job_" + "0" * 32, "job_x", "é", "%00", "job_" + "0" * 33, "a" * 5000])
def test_a_job_that_is_not_there(api: Api, job_id: str) -> None:
    path = f"{JOBS}/{job_id}"
    for answer in (
        api.client.get(path),
        api.client.get(f"{path}?wait=60"),
        api.client.get(f"{path}/events"),
        api.client.post(f"{path}/cancel"),
        api.client.post(f"{path}/retry"),
        api.client.delete(path),
    ):
        assert problem_of(answer, 404)["code"] == "not_found"


# --- lists -----------------------------------------------------------------------------------------------------


def test_pages_are_newest_first_and_join_without_gap_or_double(api: Api) -> None:
    all_ids = [api.accepted()["id"] for _ in range(61)]
    assert listed(api)["object"] == "list"

    found: list[str] = []
    query: dict[str, str] = {"limit": "30"}
    lengths = []
    while True:
        page = json_of(api.client.get(JOBS, query_string=query), 200)
        lengths.append(len(page["data"]))
        found += ids(page)
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]

    assert lengths == [30, 30, 1]
    assert found == sorted(all_ids, reverse=True)


def test_a_page_that_is_full_and_the_last_has_no_cursor(api: Api) -> None:
    for _ in range(30):
        api.accepted()

    assert listed(api, limit=30)["next_cursor"] is None
    assert len(listed(api)["data"]) == 30
    assert listed(api, model="chat") == {"object": "list", "data": [], "next_cursor": None}


def test_a_page_of_large_jobs_ends_early(api: Api) -> None:
    text = "x" * 1_500_000
    for number in range(8):
        api.accepted({"model": "echo", "input": {"n": number, "text": text}})

    first = listed(api)
    assert len(first["data"]) == PAGE_BYTES // len(text) + 1
    rest = listed(api, cursor=first["next_cursor"])
    assert len(first["data"]) + len(rest["data"]) == 8
    assert rest["next_cursor"] is None


def test_filters(api: Api) -> None:
    old = api.accepted({"model": "echo", "input": {}, "metadata": {"a.b": "1", "c": ""}})["id"]
    api.scene.clock.sleep(10)
    chat = api.accepted({"model": "chat", "input": {"prompt": "x"}, "metadata": {"c": "x"}})["id"]
    api.scene.clock.sleep(10)
    new = api.accepted()["id"]
    api.scene.true_store.cancel(chat)

    for query, expected in (
        ({"state": "queued"}, [new, old]),
        ({"state": ["cancelled", "queued"]}, [new, chat, old]),
        ({"state": "running"}, []),
        ({"model": "chat"}, [chat]),
        ({"model": "nobody's"}, []),
        ({"id": [old, new]}, [new, old]),
        ({"id": f"job_{'0' * 32}"}, []),
        ({"created_from": "2025-06-15T15:06:50Z"}, [new, chat]),
        ({"created_to": "2025-06-15T15:06:50Z"}, [old]),
        ({"created_from": "2025-06-15T17:06:50+02:00", "created_to": "2025-06-15T15:06:50.001Z"}, [chat]),
        ({"metadata.a.b": "1"}, [old]),
        ({"metadata.c": ""}, [old]),
        ({"metadata.c": "x", "state": "cancelled"}, [chat]),
        ({"metadata.c": "x", "state": "queued"}, []),
        ({"metadata.": "x"}, []),
    ):
        answer = api.client.get(JOBS, query_string=query)
        assert ids(json_of(answer, 200)) == sorted(expected, reverse=True), query


@pytest.mark.parametrize(
    ("query", "status", "field", "allowed"),
    [
        ("state=done", 422, "state", "queued, running, succeeded, failed, cancelled, expired"),
        ("state=queued&state=", 422, "state", "must be one of"),
        ("limit=0", 422, "limit", "from 1 to 200"),
        ("limit=201", 422, "limit", "from 1 to 200"),
        ("limit=10&limit=20", 422, "limit", "only once"),
        ("created_from=yesterday", 422, "created_from", "RFC 3339"),
        ("created_to=2025-01-01T00:00:00+01:00", 422, "created_to", "%2B"),
        ("id=x", 422, "id", "32 hexadecimal digits"),
        ("&".join([f"id=job_{'0' * 32}"] * 101), 422, "id", "at most 100 times"),
        ("model=a%00b", 422, "model", "NUL"),
        ("metadata.k=a%00b", 422, "metadata.k", "NUL"),
        ("metadata.k=a&metadata.k=b", 422, "metadata.k", "only once"),
        ("&".join(f"metadata.{key}=a" for key in range(17)), 422, "metadata.KEY", "at most 16 keys"),
        ("metadata=x", 422, "metadata", "metadata.KEY"),
        ("offset=3", 422, "offset", "known are: state, model"),
        ("cursor=x", 400, "cursor", "next_cursor"),
        ("cursor=", 400, "cursor", "next_cursor"),
        ("cursor=%ff%00", 422, "cursor", "NUL"),
    ],
)
def test_a_bad_query(api: Api, query: str, status: int, field: str, allowed: str) -> None:
    problem = problem_of(api.client.get(f"{JOBS}?{query}"), status)

    assert problem["field"] == field
    assert allowed in problem["detail"]


# --- cancel, retry, delete -------------------------------------------------------------------------------------


def test_cancel_is_the_same_however_often(api: Api) -> None:
    job_id = api.accepted()["id"]

    first = json_of(api.client.post(f"{JOBS}/{job_id}/cancel"), 200)
    again = json_of(api.client.post(f"{JOBS}/{job_id}/cancel", data=b"ignored"), 200)

    assert first == again == api.job(job_id)
    assert first["state"] == "cancelled"
    assert api.scene.waiting() == []


def test_cancel_leaves_alone_what_has_ended(api: Api) -> None:
    job_id = api.accepted()["id"]
    api.succeed()

    assert json_of(api.client.post(f"{JOBS}/{job_id}/cancel"), 200)["state"] == "succeeded"


def test_a_failed_job_can_be_submitted_anew(api: Api) -> None:
    old = api.accepted({"model": "echo", "input": {"n": 1}, "priority": 2, "metadata": {"a": "b"}})
    api.fail()

    answer = api.client.post(f"{JOBS}/{old['id']}/retry")

    new = json_of(answer, 202)
    assert answer.headers["Location"] == f"{JOBS}/{new['id']}"
    assert "Retry-After" in answer.headers
    assert new["id"] != old["id"]
    assert (new["retry_of"], new["state"], new["attempt"]) == (old["id"], "queued", 0)
    assert {name: new[name] for name in ("input", "priority", "metadata")} == {
        name: old[name] for name in ("input", "priority", "metadata")
    }
    assert api.job(old["id"])["state"] == "failed"


def test_a_job_whose_model_is_gone_is_not_accepted_again(api: Api) -> None:
    job = api.scene.submit(model="gone")
    claimed = api.scene.execution.claim("gone", 1, token="t", worker="w")
    api.scene.execution.settle([api.scene.execution.failure(each, JobError("bad", "never")) for each in claimed])

    problem = problem_of(api.client.post(f"{JOBS}/{job.id}/retry"), 404)

    assert problem["code"] == "unknown_model"


def test_only_a_failed_job_can(api: Api) -> None:
    job_id = api.accepted()["id"]
    assert problem_of(api.client.post(f"{JOBS}/{job_id}/retry"), 409)["code"] == "conflict"
    api.succeed()
    assert "succeeded" in problem_of(api.client.post(f"{JOBS}/{job_id}/retry"), 409)["detail"]


def test_only_a_job_that_has_ended_can_be_deleted(api: Api) -> None:
    job_id = api.accepted()["id"]
    problem = problem_of(api.client.delete(f"{JOBS}/{job_id}"), 409)
    assert (problem["code"], "queued" in problem["detail"]) == ("conflict", True)
    api.succeed()

    answer = api.client.delete(f"{JOBS}/{job_id}")

    assert (answer.status_code, answer.data) == (204, b"")
    problem_of(api.client.get(f"{JOBS}/{job_id}"), 404)
    problem_of(api.client.delete(f"{JOBS}/{job_id}"), 404)
