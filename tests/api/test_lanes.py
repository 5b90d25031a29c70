"""Lanes as operators see and steer them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ktqueue.instance import Instance
from ktqueue.job import JsonObject
from ktqueue.presence.base import Slot, Worker
from ktqueue.room import Room
from ktqueue.watched import FRESH_S
from tests.api.wiring import Api, json_of, problem_of

LANES = "/api/v1/lanes"
SIZE = "prompt_tokens=2000&answer_tokens=500"


def told(api: Api, action: str, body: Any = None) -> JsonObject:
    return json_of(api.client.post(f"{LANES}/echo/{action}", json=body), 200)


def let_it_be_seen(api: Api) -> None:
    api.scene.clock.sleep(FRESH_S)


def test_a_lane_is_told_as_in_the_list(api: Api) -> None:
    lane = json_of(api.client.get(f"{LANES}/echo"), 200)
    assert (lane["model"], lane["mode"], lane["concurrency"], lane["depth"]) == ("echo", "open", None, 0)
    assert lane in json_of(api.client.get(LANES), 200)["data"]


def test_a_lane_is_paused_and_resumed(api: Api) -> None:
    assert told(api, "pause")["mode"] == "paused"
    let_it_be_seen(api)
    job = api.accepted()
    api.succeed()
    assert api.job(job["id"])["state"] == "queued"
    assert told(api, "resume") | {"mode": "open", "depth": 1} == json_of(api.client.get(f"{LANES}/echo"), 200)
    let_it_be_seen(api)
    api.succeed()
    assert api.job(job["id"])["state"] == "succeeded"


def test_a_draining_lane_takes_nothing(api: Api) -> None:
    job = api.accepted()
    assert told(api, "drain")["mode"] == "draining"
    let_it_be_seen(api)
    refused = api.submit({"model": "echo", "input": {}})
    problem = problem_of(refused, 503)
    assert (problem["code"], refused.headers["Retry-After"]) == ("lane_draining", "5")
    assert "'echo' is being drained" in problem["detail"]
    assert api.submit({"model": "chat", "input": {"prompt": "hi"}}).status_code == 202
    api.succeed()
    assert api.job(job["id"])["state"] == "succeeded"


def test_a_bulk_submit_is_told_of_a_draining_lane_line_by_line(api: Api) -> None:
    told(api, "drain")
    let_it_be_seen(api)
    lines = [
        {"model": "echo", "input": {}},
        {"model": "chat", "input": {"prompt": "hi"}},
        {"model": "echo", "input": {}},
    ]
    answer = api.bulk("\n".join(map(json.dumps, lines)).encode())
    outcomes = [json.loads(line) for line in answer.get_data().splitlines()]
    assert [outcome.get("error", {}).get("code") for outcome in outcomes] == ["lane_draining", None, "lane_draining"]
    assert outcomes[0]["error"]["retry_after"] == 5


def test_how_many_run_at_once_is_bounded_and_unbounded(api: Api) -> None:
    assert json_of(api.client.patch(f"{LANES}/echo", json={"concurrency": 2}), 200)["concurrency"] == 2
    for _ in range(3):
        api.accepted()
    assert len(api.scene.claim()) == 2
    assert json_of(api.client.patch(f"{LANES}/echo", json={}), 200)["concurrency"] == 2
    assert json_of(api.client.patch(f"{LANES}/echo", json={"concurrency": None}), 200)["concurrency"] is None
    let_it_be_seen(api)
    assert len(api.scene.claim()) == 1


def living(api: Api, name: str, *models: str) -> None:
    api.scene.presence.tell_worker(Worker(name, f"host-of-{name}", models, ("echo", "encoder")), for_ms=8_000)


def test_a_lane_says_who_serves_it(api: Api) -> None:
    assert json_of(api.client.get(f"{LANES}/echo"), 200)["workers"] == []
    living(api, "b", "echo")
    living(api, "a", "echo", "encoder")
    told = {lane["model"]: lane["workers"] for lane in json_of(api.client.get(LANES), 200)["data"]}
    assert told == {"echo": ["a", "b"], "encoder": ["a"], "chat": []}
    job = api.accepted()
    api.scene.clock.sleep(8)
    assert json_of(api.client.get(f"{LANES}/echo"), 200) | {"workers": [], "depth": 1} == json_of(
        api.client.get(f"{LANES}/echo"), 200
    )
    assert api.job(job["id"])["state"] == "queued"


def test_a_model_is_moved_between_workers(api: Api) -> None:
    living(api, "b")
    assert told(api, "move", {"from_worker": "a", "to_worker": "b"})["model"] == "echo"
    assert api.scene.controls.serving("a") == {"echo": False}
    assert api.scene.controls.serving("b") == {"echo": True}
    told(api, "move", {"from_worker": "b"})
    assert api.scene.controls.serving("b") == {"echo": False}
    told(api, "move", {"to_worker": "b"})
    assert api.scene.controls.serving("b") == {"echo": True}


@pytest.mark.parametrize(
    ("model", "body", "said"),
    [
        ("echo", {}, "name the worker that it is to leave"),
        ("echo", {"from_worker": "b", "to_worker": "b"}, "name the worker that it is to leave"),
        ("echo", {"from_worker": "b", "to_worker": "nobody"}, "no worker 'nobody' lives; there are: a, b"),
        ("chat", {"from_worker": "a", "to_worker": "b"}, "the worker 'b' has no 'chat' in its models.toml"),
        ("echo", {"to_worker": "a/b"}, "to_worker"),
        ("echo", {"to": "b"}, "to"),
    ],
)
def test_a_move_that_can_not_be_changes_nothing(api: Api, model: str, body: Any, said: str) -> None:
    living(api, "a", "chat")
    living(api, "b")
    problem = problem_of(api.client.post(f"{LANES}/{model}/move", json=body), 422)
    assert said in json.dumps(problem)
    assert (api.scene.controls.serving("a"), api.scene.controls.serving("b")) == ({}, {})


def test_without_redis_nothing_is_moved(api: Api) -> None:
    living(api, "a", "echo")
    api.scene.redis.go()
    assert problem_of(api.client.post(f"{LANES}/echo/move", json={"to_worker": "a"}), 503)["code"] == "unavailable"
    assert api.scene.controls.serving("a") == {}


def test_a_purge_is_counted_first(api: Api) -> None:
    old = api.accepted()
    api.scene.clock.sleep(100)
    young = api.accepted()
    everything = {"object": "purge", "model": "echo", "remaining": 0}
    assert told(api, "purge", {"dry_run": True}) == everything | {"dry_run": True, "jobs": 2, "remaining": 2}
    assert told(api, "purge", {"older_than_seconds": 50}) == everything | {"dry_run": False, "jobs": 1}
    assert (api.job(old["id"])["state"], api.job(young["id"])["state"]) == ("cancelled", "queued")
    assert told(api, "purge", {})["jobs"] == 1
    assert api.job(young["id"])["state"] == "cancelled"


@pytest.mark.parametrize(
    ("asked", "body", "status", "field"),
    [
        ("GET nobody", None, 404, "model"),
        ("POST nobody/pause", None, 404, "model"),
        ("POST nobody/purge", {}, 404, "model"),
        ("PATCH echo", {"concurrency": 0}, 422, "concurrency"),
        ("PATCH echo", {"concurrency": 1.5}, 422, "concurrency"),
        ("PATCH echo", {"mode": "paused"}, 422, "mode"),
        ("POST echo/purge", {"dry_run": 1}, 422, "dry_run"),
        ("POST echo/purge", {"tenant": "Us"}, 422, "tenant"),
        ("POST echo/purge", {"older_than_seconds": -1}, 422, "older_than_seconds"),
        ("POST echo/purge", [], 422, None),
        ("POST echo/pause?now=1", None, 422, "now"),
    ],
)
def test_what_is_refused(api: Api, asked: str, body: Any, status: int, field: str | None) -> None:
    api.accepted()
    method, _, path = asked.partition(" ")
    problem = problem_of(api.client.open(f"{LANES}/{path}", method=method, json=body), status)
    assert problem.get("field") == field
    assert json_of(api.client.get(f"{LANES}/echo"), 200)["depth"] == 1


def test_a_purge_without_a_body_is_none(api: Api) -> None:
    api.accepted()
    problem_of(api.client.post(f"{LANES}/echo/purge"), 415)
    assert json_of(api.client.get(f"{LANES}/echo"), 200)["depth"] == 1


def test_a_lane_tells_of_the_servers_that_its_jobs_go_to(api: Api) -> None:
    assert json_of(api.client.get(f"{LANES}/chat"), 200)["instances"] == []
    used = Instance("http://a/v1", "ktransformers", Room(8, 9_000, 1), running=2, work=30, state="closed", rests_s=None)
    other = replace(used, state="elsewhere", running=0, work=0)
    for name, each in (("s:1:1:b", other), ("s:2:2:b", used), ("s:3:3:b", other)):
        api.scene.presence.tell(Slot(name, "chat", "other servers", Room(8), 0, 0, instances=(each,)), for_ms=8_000)
    [lane] = [each for each in json_of(api.client.get(f"{LANES}?{SIZE}"), 200)["data"] if each["model"] == "chat"]
    assert lane["instances"] == [
        {
            "url": "http://a/v1",
            "kind": "ktransformers",
            "state": "closed",
            "rests_seconds": None,
            "running": 2,
            "outstanding_tokens": 30,
            "jobs": 8,
            "cache_tokens": 9_000,
            "jobs_at_once": 3,
        }
    ]
