"""What is one tenant's is not there for another: over every operation, so that a new one can't be forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from werkzeug.test import TestResponse

from api.operation import Operation
from api.operations import OPERATIONS
from ktqueue.job import JsonObject
from ktqueue.tenant import ALL_SCOPES, CLIENT_SCOPES, DEFAULT_TENANT, Caller
from tests.api.wiring import DELIVERIES, ENDPOINTS, HOOK, JOBS, NDJSON, Api, json_of

OWNERS = [DEFAULT_TENANT, "owner"]
BODIES: dict[str, Any] = {
    "changeWebhookEndpoint": {"enabled": False},
    "replayWebhooks": {"since": "2020-01-01T00:00:00Z"},
}
"""What is sent to operations on one thing that take a body."""


class Named:
    """Takes everybody for the tenant that he says he is."""

    def caller(self, authorization: str | None) -> Caller:
        return Caller(authorization or DEFAULT_TENANT)


@dataclass
class Owned:
    """A tenant with a job that has ended, one that has not, an endpoint and a delivery; and a stranger."""

    tenant: str

    def __post_init__(self) -> None:
        self.api = Api(access=lambda _: Named())
        endpoint = json_of(self.ask("POST", ENDPOINTS, {"url": HOOK}), 201)
        self.job = json_of(self.ask("POST", JOBS, {"model": "echo", "input": {"say": "mine"}}), 202)
        self.api.succeed()
        waiting = json_of(self.ask("POST", JOBS, {"model": "echo", "input": {"say": "mine"}}), 202)
        test = json_of(self.ask("POST", f"{ENDPOINTS}/{endpoint['id']}/test"), 202)
        self.ids = {"job_id": self.job["id"], "endpoint_id": endpoint["id"], "delivery_id": test["id"]}
        self.waiting_id = waiting["id"]

    def ask(self, method: str, path: str, body: Any = None, by: str | None = None) -> TestResponse:
        headers = {"Authorization": by or self.tenant}
        return self.api.client.open(path, method=method, json=body, headers=headers)

    def everything(self) -> list[JsonObject]:
        """All that there is to see of it."""
        seen = [json_of(self.ask("GET", path), 200) for path in (JOBS, ENDPOINTS, DELIVERIES)]
        return [*seen, json_of(self.ask("GET", f"{JOBS}/{self.waiting_id}"), 200)]


@pytest.fixture(params=OWNERS)
def owned(request: pytest.FixtureRequest) -> Owned:
    return Owned(request.param)


def parameters_of(operation: Operation) -> list[str]:
    return [part[1:-1] for part in operation.path.split("/") if part.startswith("{")]


# Operators' operations reach every tenant, and a lane is everybody's.
THEIRS = [each for each in OPERATIONS if each.scope not in ALL_SCOPES - CLIENT_SCOPES]
ABOUT_ONE = [each for each in THEIRS if "{" in each.path and "{model}" not in each.path]
LOOKS = [operation for operation in THEIRS if "{" not in operation.path and operation.method == "get"]


@pytest.mark.parametrize("operation", ABOUT_ONE, ids=lambda operation: operation.id)
def test_what_is_anothers_is_not_there_and_stays_as_it_is(owned: Owned, operation: Operation) -> None:
    body = None if operation.body is None else BODIES[operation.id]
    before = owned.everything()
    mine = [owned.ids[name] for name in parameters_of(operation)]
    for ids in (mine, [owned.waiting_id]) if mine == [owned.ids["job_id"]] else (mine,):
        path = operation.path.format(**dict(zip(parameters_of(operation), ids, strict=True)))
        refused = owned.ask(operation.method.upper(), path, body, by="stranger")
        assert refused.status_code == 404, refused.get_data(as_text=True)
        assert refused.get_json()["code"] == "not_found"
    assert owned.everything() == before


@pytest.mark.parametrize("operation", LOOKS, ids=lambda operation: operation.id)
def test_no_list_tells_of_what_is_anothers(owned: Owned, operation: Operation) -> None:
    seen = owned.ask("GET", operation.path, by="stranger").get_data(as_text=True)
    assert not [each for each in (*owned.ids.values(), owned.waiting_id) if each in seen]


@pytest.mark.parametrize(
    "query", ["?id={job_id}", "?state=succeeded", "?model=echo", "?created_from=2000-01-01T00:00:00Z"]
)
def test_no_filter_finds_anothers_jobs(owned: Owned, query: str) -> None:
    path = JOBS + query.format(**owned.ids)
    assert json_of(owned.ask("GET", path), 200)["data"]
    assert json_of(owned.ask("GET", path, by="stranger"), 200)["data"] == []


def test_no_filter_finds_anothers_deliveries(owned: Owned) -> None:
    path = f"{DELIVERIES}?endpoint={owned.ids['endpoint_id']}"
    assert json_of(owned.ask("GET", path), 200)["data"]
    assert json_of(owned.ask("GET", path, by="stranger"), 200)["data"] == []


def test_an_idempotency_key_is_its_tenants(owned: Owned) -> None:
    def submit(tenant: str, say: str) -> TestResponse:
        headers = {"Authorization": tenant, "Idempotency-Key": "same"}
        return owned.api.client.post(JOBS, json={"model": "echo", "input": {"say": say}}, headers=headers)

    mine = json_of(submit(owned.tenant, "mine"), 202)
    theirs = json_of(submit("stranger", "theirs"), 202)
    assert mine["id"] != theirs["id"]
    assert json_of(submit(owned.tenant, "mine"), 202)["id"] == mine["id"]
    assert json_of(submit("stranger", "theirs"), 202)["id"] == theirs["id"]


def test_a_bulk_submit_and_a_retry_are_their_tenants(owned: Owned) -> None:
    line = b'{"model": "echo", "input": {"say": "hi"}, "max_attempts": 1}\n'
    headers = {"Authorization": "stranger"}
    answered = owned.api.client.post(f"{JOBS}:bulk", data=line, content_type=NDJSON, headers=headers)
    bulk_id = answered.get_json(force=True)["id"]
    owned.api.fail()
    again = json_of(owned.ask("POST", f"{JOBS}/{bulk_id}/retry", by="stranger"), 202)
    assert owned.ask("GET", f"{JOBS}/{again['id']}").status_code == 404
    assert owned.ask("GET", f"{JOBS}/{bulk_id}").status_code == 404


def test_endpoints_are_not_told_of_anothers_jobs(owned: Owned) -> None:
    before = json_of(owned.ask("GET", DELIVERIES), 200)
    json_of(owned.ask("POST", JOBS, {"model": "echo", "input": {"say": "theirs"}}, by="stranger"), 202)
    owned.api.succeed()
    told = json_of(owned.ask("GET", DELIVERIES), 200)["data"]
    assert len(told) == len(before["data"]) + 1, "of its own job that waited, and of nothing else"
    assert {each["job"] for each in told} <= {None, owned.ids["job_id"], owned.waiting_id}


def test_each_tenant_has_a_webhook_secret_of_its_own(owned: Owned) -> None:
    def secret(tenant: str) -> str:
        told: str = json_of(owned.ask("GET", "/api/v1/webhook-secret", by=tenant), 200)["secret"]
        return told

    assert secret("stranger") != secret(owned.tenant) == secret(owned.tenant)
    assert secret(DEFAULT_TENANT) == owned.api.keyring.default_secret()
