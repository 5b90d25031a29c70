"""/api/v1/deliveries and /api/v1/jobs/{id}/deliveries: seen, filtered, page by page, and sent again."""

from __future__ import annotations

import pytest

from ktqueue.job import JsonObject
from ktqueue.webhook import Answer
from tests.api.wiring import DELIVERIES, ENDPOINTS, HOOK, JOBS, TAKEN, Api, json_of, problem_of

REFUSED = Answer(None, "connection_failed", 3)
ECHO: JsonObject = {"model": "echo", "input": {}}
QUEUED = {"url": HOOK, "events": ["job.queued"]}


def listed(api: Api, path: str = DELIVERIES, **query: str | int) -> JsonObject:
    return json_of(api.client.get(path, query_string=query), 200)


def ids(page: JsonObject) -> list[str]:
    return [each["id"] for each in page["data"]]


def got(api: Api, delivery: JsonObject) -> JsonObject:
    return json_of(api.client.get(delivery["links"]["self"]), 200)


def test_a_delivery_is_seen_with_each_attempt(api: Api) -> None:
    job = api.accepted(ECHO | {"webhook": QUEUED})
    (waiting,) = listed(api)["data"]
    path = f"{DELIVERIES}/{waiting['id']}"
    assert waiting == {
        "id": waiting["id"],
        "object": "delivery",
        "event": {
            "id": f"evt_{job['id'].removeprefix('job_')}_0",
            "type": "job.queued",
            "timestamp": "2025-06-15T15:06:40.000Z",
        },
        "job": job["id"],
        "endpoint": None,
        "url": HOOK,
        "state": "pending",
        "attempts": 0,
        "next_attempt_at": "2025-06-15T15:06:40.000Z",
        "links": {"self": path, "job": f"{JOBS}/{job['id']}", "redeliver": f"{path}/redeliver"},
    }
    assert got(api, waiting) == waiting | {"attempts_made": []}
    api.scene.clock.sleep(1)
    api.deliver(REFUSED)
    api.scene.clock.sleep(10)
    api.deliver(TAKEN)

    assert got(api, waiting) == waiting | {
        "state": "delivered",
        "attempts": 2,
        "next_attempt_at": None,
        "attempts_made": [
            {
                "number": 1,
                "at": "2025-06-15T15:06:40.997Z",
                "duration_ms": 3,
                "status": None,
                "error": "connection_failed",
                "answer": "",
            },
            {
                "number": 2,
                "at": "2025-06-15T15:06:50.988Z",
                "duration_ms": 12,
                "status": 200,
                "error": None,
                "answer": "thanks",
            },
        ],
    }


def test_while_a_request_is_under_way_no_next_one_is_told(api: Api) -> None:
    api.accepted(ECHO | {"webhook": QUEUED})
    (delivery,) = listed(api)["data"]
    target = api.scene.true_outbox.due_targets()[0].target
    api.scene.true_outbox.claim({target: 1}, token="t", sender="s", lease_ms=30_000)

    under_way = got(api, delivery)

    assert (under_way["state"], under_way["next_attempt_at"]) == ("pending", None)
    assert json_of(api.client.post(delivery["links"]["redeliver"]), 202)["state"] == "pending"


def test_what_a_job_tells_is_listed_newest_first_for_every_receiver(api: Api) -> None:
    endpoint = api.endpoint(events=["job.queued", "job.succeeded"], model="echo")
    api.endpoint(model="chat")
    job = api.accepted(ECHO | {"webhook": QUEUED})
    api.accepted()
    api.succeed()
    while api.deliver():
        pass

    told = listed(api, job["links"]["deliveries"])

    seen = [(each["event"]["type"], each["endpoint"], each["url"]) for each in told["data"]]
    assert seen[0] == ("job.succeeded", endpoint["id"], HOOK)
    assert sorted(seen[1:], key=str) == [("job.queued", endpoint["id"], HOOK), ("job.queued", None, HOOK)]
    assert [attempt["answer"] for each in told["data"] for attempt in each["attempts_made"]] == ["thanks"] * 3
    assert told["next_cursor"] is None


def test_a_job_that_tells_nobody_has_no_deliveries_and_one_that_is_not_there_neither(api: Api) -> None:
    assert listed(api, api.accepted()["links"]["deliveries"])["data"] == []
    for job_id in (f"job_{'0' * 32}", "nobody", f"whe_{'0' * 32}"):
        assert problem_of(api.client.get(f"{JOBS}/{job_id}/deliveries"), 404)["code"] == "not_found"


def test_deliveries_are_found_by_endpoint_and_state(api: Api) -> None:
    one, other = api.endpoint(events=["job.queued"]), api.endpoint(events=["job.queued"])
    api.accepted(ECHO | {"webhook": QUEUED})
    api.deliver()
    api.accepted(ECHO | {"webhook": QUEUED})
    api.client.patch(f"{ENDPOINTS}/{one['id']}", json={"enabled": False})

    assert len(ids(listed(api))) == 6
    assert len(ids(listed(api, endpoint=one["id"]))) == 2
    assert len(ids(listed(api, state="delivered"))) == 3
    assert len(ids(listed(api, state="pending"))) == 2
    (failed,) = listed(api, state="failed")["data"]
    assert (failed["endpoint"], failed["next_attempt_at"]) == (one["id"], None)
    assert ids(listed(api, state="failed", endpoint=other["id"])) == []
    assert ids(listed(api, endpoint=f"whe_{'0' * 32}")) == []


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 7])
def test_pages_are_gap_free(api: Api, limit: int) -> None:
    job = api.accepted(ECHO | {"webhook": {"url": HOOK, "events": ["job.queued", "job.cancelled"]}})
    for _ in range(5):
        api.accepted(ECHO | {"webhook": QUEUED})
    everything = ids(listed(api))
    assert everything == sorted(everything, key=lambda each: -int(each.removeprefix("dlv_")))

    for path, expected in ((DELIVERIES, everything), (job["links"]["deliveries"], everything[-1:])):
        seen: list[str] = []
        page = listed(api, path, limit=limit)
        while page["next_cursor"] is not None:
            assert len(page["data"]) == limit
            seen += ids(page)
            page = listed(api, path, limit=limit, cursor=page["next_cursor"])
        assert seen + ids(page) == expected


@pytest.mark.parametrize(
    ("query", "field", "allowed"),
    [
        ({"state": "lost"}, "state", "pending, delivered, failed"),
        ({"state": ["pending", "failed"]}, "state", "only once"),
        ({"endpoint": "x"}, "endpoint", "whe_ and 32"),
        ({"limit": "0"}, "limit", "1 to 200"),
        ({"limit": "201"}, "limit", "1 to 200"),
        ({"job": "x"}, "job", "known are: endpoint, state, limit, cursor"),
    ],
)
def test_a_wrong_filter_is_refused(api: Api, query: JsonObject, field: str, allowed: str) -> None:
    problem = problem_of(api.client.get(DELIVERIES, query_string=query), 422)

    assert problem["field"] == field
    assert allowed in problem["detail"]


def test_a_cursor_of_another_list_is_refused(api: Api) -> None:
    for _ in range(2):
        api.accepted()
    jobs = json_of(api.client.get(f"{JOBS}?limit=1"), 200)["next_cursor"]

    for path in (DELIVERIES, api.accepted()["links"]["deliveries"]):
        problem = problem_of(api.client.get(path, query_string={"cursor": jobs}), 400)
        assert (problem["code"], problem["field"]) == ("malformed", "cursor")


def test_a_delivery_is_sent_again_as_the_same_event(api: Api) -> None:
    api.accepted(ECHO | {"webhook": QUEUED})
    api.deliver()
    (delivered,) = listed(api)["data"]
    rung = api.rung

    answer = api.client.post(delivered["links"]["redeliver"])

    again = json_of(answer, 202)
    assert answer.headers["Location"] == delivered["links"]["self"]
    assert again == delivered | {"state": "pending", "next_attempt_at": "2025-06-15T15:06:40.000Z"}
    assert api.rung == rung + 1
    assert api.deliver() == 1
    assert got(api, delivered)["attempts"] == 2


def test_nothing_is_sent_again_to_a_disabled_endpoint(api: Api) -> None:
    endpoint = api.endpoint()
    test = json_of(api.client.post(endpoint["links"]["test"]), 202)
    api.client.patch(f"{ENDPOINTS}/{endpoint['id']}", json={"enabled": False})

    problem = problem_of(api.client.post(test["links"]["redeliver"]), 409)

    assert (problem["code"], got(api, test)["state"]) == ("conflict", "failed")


@pytest.mark.parametrize("delivery", ["dlv_1", "dlv_0", "dlv_01", "dlv_-1", "dlv_", "1", "dlv_1" + "0" * 18, "dlv_٣"])
def test_a_delivery_that_is_not_there(api: Api, delivery: str) -> None:
    path = f"{DELIVERIES}/{delivery}"

    for answer in (api.client.get(path), api.client.post(f"{path}/redeliver")):
        problem = problem_of(answer, 404)
        assert problem["code"] == "not_found"
        assert "delivery" in problem["detail"]
