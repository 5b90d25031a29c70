"""Models, lanes, health, the OpenAPI document and its pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from openapi_spec_validator import validate

from api.deliveries import FILTERS as DELIVERY_FILTERS
from api.errors import STATUS
from api.inputs import TASKS, EndpointChanges, EndpointRequest, JobRequest, ReplayRequest, WebhookRequest
from api.key_shapes import KeyRequest, RotateRequest
from api.lane_inputs import LaneChanges, PurgeRequest
from api.listing import FILTERS
from api.operations import OPERATIONS
from api.shapes import known_fields
from api.tenants import TenantLimits
from ktqueue.job import JsonObject
from ktqueue.room import Room
from ktqueue.webhook import TITLES
from tests.api.wiring import Api, json_of, problem_of
from tests.support.scene import ended


def test_models_tell_what_they_can_do(api: Api) -> None:
    models = json_of(api.client.get("/api/v1/models"), 200)

    assert (models["object"], models["next_cursor"]) == ("list", None)
    assert {model["id"]: model["tasks"] for model in models["data"]} == {
        "echo": ["echo"],
        "chat": ["generate"],
        "encoder": ["embed", "classify", "rerank"],
    }
    assert models["data"][1] == {
        "id": "chat",
        "object": "model",
        "tasks": ["generate"],
        "engine": "causal",
        "limits": {"context": 2048, "max_batch": 32},
    }


def test_lanes_tell_what_waits_and_runs(api: Api) -> None:
    api.accepted()
    api.scene.claim()
    api.accepted()
    api.scene.clock.sleep(2.5)
    api.accepted()
    api.scene.true_lanes.count_finished("echo", ended(10))

    lanes = {lane["model"]: lane for lane in json_of(api.client.get("/api/v1/lanes"), 200)["data"]}

    assert lanes["echo"] == {
        "model": "echo",
        "object": "lane",
        "mode": "open",
        "concurrency": None,
        "workers": [],
        "depth": 2,
        "running": 1,
        "throughput": 2.0,
        "eta_error": None,
        "oldest_wait_seconds": 2.5,
        "capacity": None,
        "instances": [],
    }
    assert lanes["chat"]["depth"] == 0
    assert (lanes["chat"]["throughput"], lanes["chat"]["oldest_wait_seconds"]) == (None, None)


def capacities(api: Api, query: str) -> dict[str, JsonObject]:
    lanes = json_of(api.client.get(f"/api/v1/lanes{query}"), 200)["data"]
    return {lane["model"]: lane["capacity"] for lane in lanes}


def test_lanes_tell_what_a_slot_holds(api: Api) -> None:
    api.scene.execution.tell_room("echo", Room(64))
    api.scene.execution.tell_room("chat", Room(256, 180_000, 16, "triton"))

    chat = {"jobs": 256, "cache_tokens": 180_000, "block_tokens": 16}
    assert capacities(api, "") == {
        "echo": {
            "jobs": 64,
            "cache_tokens": None,
            "block_tokens": None,
            "prompt_tokens": 1_000,
            "answer_tokens": 200,
            "jobs_at_once": 64,
        },
        "chat": chat | {"prompt_tokens": 1_000, "answer_tokens": 200, "jobs_at_once": 150},
        "encoder": None,
    }
    longer = chat | {"prompt_tokens": 2_000, "answer_tokens": 500, "jobs_at_once": 71}
    assert capacities(api, "?prompt_tokens=2000&answer_tokens=500")["chat"] == longer
    longest = chat | {"prompt_tokens": 10_000_000, "answer_tokens": 200, "jobs_at_once": 0}
    assert capacities(api, "?prompt_tokens=10000000")["chat"] == longest


@pytest.mark.parametrize(
    ("query", "field", "allowed"),
    [
        ("prompt_tokens=0", "prompt_tokens", "a whole number from 1 to 10000000"),
        ("answer_tokens=10000001", "answer_tokens", "a whole number from 1 to 10000000"),
        ("answer_tokens=-1", "answer_tokens", "a whole number"),
        ("answer_tokens=1.5", "answer_tokens", "a whole number"),
        ("prompt_tokens=1&prompt_tokens=1", "prompt_tokens", "only once"),
        ("tokens=1", "tokens", "known are: prompt_tokens, answer_tokens"),
    ],
)
def test_lanes_are_asked_for_in_whole_tokens(api: Api, query: str, field: str, allowed: str) -> None:
    problem = problem_of(api.client.get(f"/api/v1/lanes?{query}"), 422)

    assert problem["field"] == field
    assert allowed in problem["detail"]


def test_healthz_needs_nothing_and_readyz_asks(api: Api) -> None:
    assert json_of(api.client.get("/readyz"), 200) == {"status": "ready", "checks": {"database": "ok", "redis": "ok"}}
    api.scene.sql.go()
    api.scene.redis.go()

    assert json_of(api.client.get("/healthz"), 200) == {"status": "ok"}
    answer = api.client.get("/readyz")
    problem = problem_of(answer, 503)
    assert problem["code"] == "not_ready"
    assert problem["checks"] == {"database": "ping did not answer", "redis": "ping did not answer"}
    assert answer.headers["Retry-After"] == "2"


def test_one_thing_that_is_missing_is_enough_not_to_be_ready(api: Api) -> None:
    api.scene.redis.go()

    problem = problem_of(api.client.get("/readyz"), 503)
    assert problem["checks"] == {"database": "ok", "redis": "ping did not answer"}
    assert problem["detail"] == "redis: ping did not answer"


def test_the_openapi_document_is_valid_and_tells_of_every_route(api: Api) -> None:
    document = json_of(api.client.get("/openapi.json"), 200)

    validate(document)
    assert document["openapi"] == "3.1.0"
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    routes = {
        (method, re.sub(r"<(\w+)>", r"{\1}", rule.rule))
        for rule in api.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    pages = {("GET", "/"), ("GET", "/docs"), ("GET", "/docs/<path:name>"), ("GET", "/openapi.json")}
    assert told == routes - pages


def test_the_openapi_document_tells_what_webhooks_are_sent(api: Api) -> None:
    document = json_of(api.client.get("/openapi.json"), 200)

    event = document["webhooks"]["event"]["post"]
    assert event["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/EventBody"}
    assert {"$ref": "#/components/schemas/JobBody"} in document["components"]["schemas"]["EventBody"]["properties"][
        "data"
    ]["anyOf"]
    assert [header["name"] for header in event["parameters"]] == [
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    ]


def test_the_openapi_document_names_what_this_catalogue_has(api: Api) -> None:
    schemas = json_of(api.client.get("/openapi.json"), 200)["components"]["schemas"]
    request = schemas["JobRequest"]["properties"]

    assert request["model"]["enum"] == ["echo", "chat", "encoder"]
    assert request["task"]["enum"] == ["classify", "echo", "embed", "generate", "rerank"]
    assert {"$ref": "#/components/schemas/GenerateParams"} in request["params"]["anyOf"]
    assert schemas["GenerateInput"]["oneOf"] == [{"required": ["prompt"]}, {"required": ["messages"]}]
    assert schemas["GenerateParams"]["properties"]["max_tokens"]["maximum"] == 32_768
    assert schemas["JobRequest"]["additionalProperties"] is False
    assert schemas["EndpointChanges"]["properties"]["model"]["anyOf"][0]["enum"] == ["echo", "chat", "encoder"]
    assert "job.progress" in schemas["WebhookRequest"]["properties"]["events"]["items"]["enum"]


def test_the_manual_tells_of_every_operation_field_and_error_code() -> None:
    manual = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()

    actions = [operation.path.rpartition("/")[2] for operation in OPERATIONS]
    assert [action for action in actions if re.sub(r"{\w+}", "{id}", action) not in manual] == []
    inputs = [(shapes.input.kind, shapes.params.kind) for shapes in TASKS.values()]
    requests = (
        *(JobRequest, WebhookRequest, EndpointRequest, EndpointChanges, ReplayRequest),
        *(LaneChanges, PurgeRequest, KeyRequest, RotateRequest, TenantLimits),
    )
    fields = {name for kinds in [requests, *inputs] for kind in kinds for name in known_fields(kind, ())}
    assert [
        name
        for name in fields | {*FILTERS, *DELIVERY_FILTERS, *TITLES.values()}
        if f"`{name}" not in manual and f"{name}`" not in manual
    ] == []
    codes = {kind.code for kind in STATUS if hasattr(kind, "code")} | {
        "method_not_allowed",
        "internal_error",
        "not_ready",
    }
    told = set(re.findall(r"^\| \d{3} \| `(\w+)`", manual, re.MULTILINE))
    assert codes | {"unsupported_task", "too_many_readers", "too_busy"} == told


def test_the_docs_need_no_network(api: Api) -> None:
    page = api.client.get("/docs")
    text = page.get_data(as_text=True)

    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert "//" not in text.replace("<!doctype html>", "")
    links = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(links) == 3
    for link in links:
        with api.client.get(link) as answer:
            assert answer.status_code == 200
            assert len(answer.data) > 1000


def test_whoever_opens_the_address_finds_the_docs(api: Api) -> None:
    answer = api.client.get("/")

    assert (answer.status_code, answer.headers["Location"]) == (302, "/docs")


@pytest.mark.parametrize("name", ["../__init__.py", "%2e%2e/__init__.py", "nothing.js", "js", "/etc/passwd"])
def test_the_docs_give_no_other_file(api: Api, name: str) -> None:
    problem_of(api.client.get(f"/docs/{name}"), 404)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/api/v1/jobs", "/api/v1/models", "/docs", "/openapi.json"])
def test_head_and_options(api: Api, path: str) -> None:
    head, get, options = api.client.head(path), api.client.get(path), api.client.options(path)

    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["Content-Length"] == get.headers["Content-Length"] == str(len(get.data))
    assert options.status_code == 200
    assert {"GET", "HEAD", "OPTIONS"} <= set(options.headers["Allow"].split(", "))
