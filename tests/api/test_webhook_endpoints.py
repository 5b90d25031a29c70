"""/api/v1/webhook-endpoints, and what receivers verify with."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from werkzeug.test import TestResponse

from api.webhook_endpoints import MOST_BYTES
from ktqueue.job import JsonObject
from ktqueue.outbox.base import DeliveryQuery, Endpoint
from ktqueue.webhook import TERMINAL, Answer, Disabled
from ktqueue.webhook_policy import DAY, FIRST_PAUSE_MS
from ktqueue.webhook_signing import verify
from ktqueue.webhooks import MOST_ENDPOINTS
from tests.api.wiring import ALLOWED, DELIVERIES, ENDPOINTS, HOOK, Api, json_of, problem_of

ENDS = ["job.succeeded", "job.failed", "job.cancelled", "job.expired"]
NOBODY = f"{ENDPOINTS}/whe_{'0' * 32}"
WELL = {"state": "closed", "failures": 0, "open_until": None, "failing_since": None}
BAD, GONE = Answer(500, None, 5, "no"), Answer(410, None, 5)


def path_of(endpoint: JsonObject) -> str:
    path: str = endpoint["links"]["self"]
    return path


def got(api: Api, endpoint: JsonObject) -> JsonObject:
    return json_of(api.client.get(path_of(endpoint)), 200)


def without_secret(endpoint: Mapping[str, Any]) -> JsonObject:
    return {name: value for name, value in endpoint.items() if name != "secret"}


def secret_in_store(api: Api, endpoint: JsonObject) -> str:
    kept = api.scene.true_outbox.endpoint(endpoint["id"])
    assert kept is not None
    return api.keyring.open(kept.secret, kept.id)


# --- create, look, list ----------------------------------------------------------------------------------------


def test_an_endpoint_is_registered_and_its_secret_told_once(api: Api) -> None:
    answer = api.client.post(ENDPOINTS, json={"url": HOOK})

    endpoint = json_of(answer, 201)
    path = f"{ENDPOINTS}/{endpoint['id']}"
    assert without_secret(endpoint) == {
        "id": endpoint["id"],
        "object": "webhook_endpoint",
        "url": HOOK,
        "events": ENDS,
        "model": None,
        "description": "",
        "enabled": True,
        "disabled_reason": None,
        "created_at": "2025-06-15T15:06:40.000Z",
        "health": WELL,
        "links": {
            "self": path,
            "test": f"{path}/test",
            "rotate": f"{path}/rotate",
            "replay": f"{path}/replay",
            "deliveries": f"{DELIVERIES}?endpoint={endpoint['id']}",
        },
    }
    assert (answer.headers["Location"], answer.headers["Cache-Control"]) == (path, "no-store")
    assert len(base64.b64decode(endpoint["secret"].removeprefix("whsec_"), validate=True)) == 32
    assert secret_in_store(api, endpoint) == endpoint["secret"]
    assert got(api, endpoint) == without_secret(endpoint)


def test_everything_that_can_be_said_of_an_endpoint_is_kept(api: Api) -> None:
    given = {"events": ["job.queued", "job.progress"], "model": "chat", "description": "é" * 512}

    endpoint = got(api, api.endpoint(**given))

    assert {name: endpoint[name] for name in given} == given
    assert api.endpoint(model=None)["model"] is None


def test_endpoints_are_listed_the_oldest_first(api: Api) -> None:
    endpoints = [api.endpoint(description=str(number)) for number in range(3)]

    page = json_of(api.client.get(ENDPOINTS), 200)

    assert page == {"object": "list", "data": [without_secret(each) for each in endpoints], "next_cursor": None}
    for endpoint in endpoints:
        listed = json_of(api.client.get(endpoint["links"]["deliveries"]), 200)
        assert listed == {"object": "list", "data": [], "next_cursor": None}


def test_there_are_only_so_many_endpoints(api: Api) -> None:
    for number in range(MOST_ENDPOINTS):
        api.scene.true_outbox.add_endpoint(Endpoint(f"whe_{number:032x}", HOOK, TERMINAL, "sealed", 0))

    problem = problem_of(api.client.post(ENDPOINTS, json={"url": HOOK}), 409)

    assert problem["code"] == "conflict"
    assert "1000 webhook endpoints" in problem["detail"]
    assert api.client.delete(f"{ENDPOINTS}/whe_{0:032x}").status_code == 204
    api.endpoint()


WRONG: list[tuple[Any, str, str]] = [
    ({}, "url", "is required"),
    ([], "", "must be a JSON object"),
    ("x", "", "must be a JSON object"),
    ({"url": 1}, "url", "must be a string"),
    ({"url": "example.com"}, "url", "http:// or https://"),
    ({"url": "http://10.0.0.1/"}, "url", "public host"),
    ({"url": "http://example.com:22/"}, "url", "80, 443, 8080, 8443"),
    ({"url": HOOK, "events": []}, "events", "one or more of: job.queued"),
    ({"url": HOOK, "events": ["nothing"]}, "events", "'nothing'; there are: job.queued"),
    ({"url": HOOK, "model": 1}, "model", "must be a string"),
    ({"url": HOOK, "description": None}, "description", "must be a string"),
    ({"url": HOOK, "enabled": True}, "enabled", "known are: url, events, model, description"),
    ({"url": HOOK, "secret": "whsec_"}, "secret", "known are: url, events, model, description"),
    ({"url": HOOK, "description": "\0"}, "description", "NUL"),
]


@pytest.mark.parametrize(("body", "field", "allowed"), WRONG)
def test_a_wrong_endpoint_is_refused_and_says_what_is_allowed(api: Api, body: Any, field: str, allowed: str) -> None:
    problem = problem_of(api.client.post(ENDPOINTS, json=body), 422)

    assert (problem["code"], problem.get("field", "")) == ("invalid_request", field)
    assert allowed in problem["errors"][0]["message"]
    assert json_of(api.client.get(ENDPOINTS), 200)["data"] == []


def test_a_filter_for_a_model_that_is_not_there(api: Api) -> None:
    endpoint = api.endpoint()
    for answer in (
        api.client.post(ENDPOINTS, json={"url": HOOK, "model": "nobody"}),
        api.client.patch(path_of(endpoint), json={"model": ""}),
    ):
        problem = problem_of(answer, 404)
        assert (problem["code"], problem["field"]) == ("unknown_model", "model")
        assert problem["allowed"] == ["chat", "echo", "encoder"]


def ask(api: Api, which: str, **more: Any) -> TestResponse:
    """A request that has a body."""
    endpoint = path_of(api.endpoint())
    method, path = {
        "create": ("POST", ENDPOINTS),
        "change": ("PATCH", endpoint),
        "replay": ("POST", f"{endpoint}/replay"),
    }[which]
    return api.client.open(path, method=method, **{"content_type": "application/json", **more})


@pytest.mark.parametrize("which", ["create", "change", "replay"])
def test_a_body_that_cannot_be_taken(api: Api, which: str) -> None:
    assert problem_of(ask(api, which, data=b"{"), 400)["code"] == "malformed"
    assert problem_of(ask(api, which, data=b""), 400)["code"] == "malformed"
    assert problem_of(ask(api, which, data=b"{}", content_type="text/plain"), 415)["field"] == "Content-Type"
    large = json.dumps({"description": "x" * MOST_BYTES}).encode()
    assert problem_of(ask(api, which, data=large), 413)["code"] == "too_large"
    assert problem_of(ask(api, which, data=b'{"nope": 1}'), 422)["errors"][-1]["field"] == "nope"


def test_what_is_too_long_is_said_to_be(api: Api) -> None:
    for body, field in (({"url": HOOK, "description": "x" * 513}, "description"), ({"url": "x" * 2049}, "url")):
        problem = problem_of(api.client.post(ENDPOINTS, json=body), 422)
        assert (problem["code"], problem["field"]) == ("too_large", field)


# --- change, delete --------------------------------------------------------------------------------------------


def test_what_is_given_is_changed_and_nothing_else(api: Api) -> None:
    endpoint = without_secret(api.endpoint(model="chat", description="ours"))
    for changes in (
        {},
        {"url": "https://example.com/new"},
        {"events": ["job.started", "job.failed"]},
        {"model": "echo"},
        {"model": None},
        {"description": ""},
    ):
        endpoint |= changes
        changed = api.client.patch(path_of(endpoint), json=changes)
        assert json_of(changed, 200) == got(api, endpoint) == endpoint
        assert "Cache-Control" not in changed.headers


@pytest.mark.parametrize(
    ("changes", "field", "allowed"),
    [
        ({"url": "http://127.0.0.1/"}, "url", "public host"),
        ({"url": None}, "url", "must be a string"),
        ({"events": []}, "events", "one or more of: job.queued"),
        ({"enabled": None}, "enabled", "must be true or false"),
        ({"enabled": 1}, "enabled", "must be true or false"),
        ({"id": "x"}, "id", "known are: url, events, model, description, enabled"),
        ({"secret": "x"}, "secret", "known are: url, events, model, description, enabled"),
        ([], "", "must be a JSON object"),
    ],
)
def test_a_wrong_change_is_refused_and_changes_nothing(api: Api, changes: Any, field: str, allowed: str) -> None:
    endpoint = api.endpoint()

    problem = problem_of(api.client.patch(path_of(endpoint), json=changes), 422)

    assert problem.get("field", "") == field
    assert allowed in problem["errors"][0]["message"]
    assert got(api, endpoint) == without_secret(endpoint)


def test_an_endpoint_that_is_disabled_is_told_nothing_until_it_is_enabled(api: Api) -> None:
    endpoint = api.endpoint(events=["job.queued"])
    disabled = json_of(api.client.patch(path_of(endpoint), json={"enabled": False}), 200)
    assert (disabled["enabled"], disabled["disabled_reason"]) == (False, "operator")
    api.accepted()
    assert api.deliver() == 0

    enabled = json_of(api.client.patch(path_of(endpoint), json={"enabled": True}), 200)

    assert (enabled["enabled"], enabled["disabled_reason"]) == (True, None)
    api.accepted()
    assert api.deliver() == 1


def test_an_endpoint_that_said_it_is_gone_stays_so_until_it_is_enabled(api: Api) -> None:
    endpoint = api.endpoint()
    api.client.post(endpoint["links"]["test"])
    api.deliver(GONE)
    assert (got(api, endpoint)["enabled"], got(api, endpoint)["disabled_reason"]) == (False, "gone")

    again = json_of(api.client.patch(path_of(endpoint), json={"enabled": False, "description": "moved"}), 200)

    assert again["disabled_reason"] == "gone"
    assert json_of(api.client.patch(path_of(endpoint), json={"enabled": True}), 200)["health"] == WELL


def test_an_endpoint_is_deleted_with_its_deliveries(api: Api) -> None:
    endpoint = api.endpoint()
    test = json_of(api.client.post(endpoint["links"]["test"]), 202)

    answer = api.client.delete(path_of(endpoint))

    assert (answer.status_code, answer.data) == (204, b"")
    problem_of(api.client.get(path_of(endpoint)), 404)
    problem_of(api.client.get(test["links"]["self"]), 404)
    problem_of(api.client.delete(path_of(endpoint)), 404)


@pytest.mark.parametrize("endpoint", [NOBODY, f"{ENDPOINTS}/whe_", f"{ENDPOINTS}/job_{'0' * 32}", f"{ENDPOINTS}/é"])
def test_an_endpoint_that_is_not_there(api: Api, endpoint: str) -> None:
    since = {"since": "2025-06-15T15:06:40Z"}
    for answer in (
        api.client.get(endpoint),
        api.client.patch(endpoint, json={"enabled": True}),
        api.client.delete(endpoint),
        api.client.post(f"{endpoint}/rotate"),
        api.client.post(f"{endpoint}/test"),
        api.client.post(f"{endpoint}/replay", json=since),
    ):
        problem = problem_of(answer, 404)
        assert problem["code"] == "not_found"
        assert "webhook endpoint" in problem["detail"]


# --- health ----------------------------------------------------------------------------------------------------


def test_health_tells_of_failures_until_all_is_well(api: Api) -> None:
    endpoint = api.endpoint(events=["job.queued"])
    began = "2025-06-15T15:06:40.000Z"
    api.accepted()
    api.deliver(BAD)
    first = {"state": "closed", "failures": 1, "open_until": None, "failing_since": began}
    assert got(api, endpoint)["health"] == first
    for _ in range(4):
        api.accepted()
    api.deliver(BAD)

    opened = {"state": "open", "failures": 5, "open_until": "2025-06-15T15:06:45.000Z", "failing_since": began}
    assert got(api, endpoint)["health"] == opened
    api.scene.clock.ms += FIRST_PAUSE_MS
    assert got(api, endpoint)["health"] == opened | {"state": "half_open"}
    assert json_of(api.client.get(ENDPOINTS), 200)["data"][0]["health"]["state"] == "half_open"
    api.scene.clock.ms += FIRST_PAUSE_MS
    assert api.deliver() == 1
    assert got(api, endpoint)["health"] == WELL


# --- rotate ----------------------------------------------------------------------------------------------------


def test_a_new_secret_is_told_once_and_the_old_one_signs_for_a_day(api: Api) -> None:
    endpoint = api.endpoint()

    answer = api.client.post(endpoint["links"]["rotate"])

    rotated = json_of(answer, 200)
    assert answer.headers["Cache-Control"] == "no-store"
    assert rotated["secret"] != endpoint["secret"]
    assert without_secret(rotated) == without_secret(endpoint) == got(api, endpoint)
    kept = api.scene.true_outbox.endpoint(endpoint["id"])
    assert kept is not None
    assert kept.old_secret is not None
    assert api.keyring.open(kept.secret, kept.id) == rotated["secret"]
    assert api.keyring.open(kept.old_secret, kept.id) == endpoint["secret"]
    assert kept.old_secret_until == api.scene.clock.ms + DAY


def test_a_database_that_goes_away_loses_no_secret(api: Api) -> None:
    endpoint = api.endpoint()
    for part in ("circuits", "change_endpoint"):
        api.scene.sql.go(part)
        problem_of(api.client.post(endpoint["links"]["rotate"]), 503)
        assert secret_in_store(api, endpoint) == endpoint["secret"]


# --- test, replay ----------------------------------------------------------------------------------------------


def test_a_test_is_sent(api: Api) -> None:
    endpoint = api.endpoint(events=["job.failed"])

    answer = api.client.post(endpoint["links"]["test"])

    test = json_of(answer, 202)
    assert answer.headers["Location"] == test["links"]["self"] == f"{DELIVERIES}/{test['id']}"
    assert test == {
        "id": test["id"],
        "object": "delivery",
        "event": {
            "id": f"evt_{endpoint['id'].removeprefix('whe_')}_{api.scene.clock.ms}",
            "type": "webhook.test",
            "timestamp": "2025-06-15T15:06:40.000Z",
        },
        "job": None,
        "endpoint": endpoint["id"],
        "url": HOOK,
        "state": "pending",
        "attempts": 0,
        "next_attempt_at": "2025-06-15T15:06:40.000Z",
        "links": {
            "self": f"{DELIVERIES}/{test['id']}",
            "job": None,
            "redeliver": f"{DELIVERIES}/{test['id']}/redeliver",
        },
    }
    assert api.rung == 1
    assert api.deliver() == 1
    assert json_of(api.client.get(test["links"]["self"]), 200)["state"] == "delivered"


def test_what_was_missed_since_a_time_is_sent_again(api: Api) -> None:
    endpoint = api.endpoint(events=["job.queued"])
    api.accepted()
    api.client.patch(path_of(endpoint), json={"enabled": False})
    api.scene.clock.sleep(60)
    api.accepted()
    api.scene.clock.sleep(60)
    api.accepted()
    body = {"since": "2025-06-15T17:07:40+02:00"}
    assert problem_of(api.client.post(endpoint["links"]["replay"], json=body), 409)["code"] == "conflict"
    api.client.patch(path_of(endpoint), json={"enabled": True})

    assert json_of(api.client.post(endpoint["links"]["replay"], json=body), 200) == {
        "object": "replay",
        "deliveries": 2,
    }

    assert api.rung == 1
    assert api.deliver() == 2
    assert json_of(api.client.post(endpoint["links"]["replay"], json=body), 200)["deliveries"] == 0
    states = [each.state for each in api.scene.true_outbox.deliveries(DeliveryQuery())]
    assert states == ["delivered", "delivered", "failed"]


@pytest.mark.parametrize(
    ("body", "field", "allowed"),
    [
        ({}, "since", "is required"),
        ({"since": "yesterday"}, "since", "RFC 3339"),
        ({"since": "2025-06-15T15:06:40"}, "since", "RFC 3339"),
        ({"since": 1_750_000_000}, "since", "RFC 3339"),
        ({"since": "2025-06-15T15:06:40Z", "until": 1}, "until", "known are: since"),
    ],
)
def test_a_wrong_replay_is_refused(api: Api, body: Any, field: str, allowed: str) -> None:
    problem = problem_of(api.client.post(api.endpoint()["links"]["replay"], json=body), 422)

    assert problem["field"] == field
    assert allowed in problem["detail"]


def test_a_disabled_endpoint_is_not_tested(api: Api) -> None:
    endpoint = api.endpoint()
    api.scene.true_outbox.disable(endpoint["id"], Disabled.FAILING)

    problem = problem_of(api.client.post(endpoint["links"]["test"]), 409)

    assert "enable it first" in problem["detail"]
    assert api.rung == 0


# --- what receivers verify with --------------------------------------------------------------------------------


def test_what_is_signed_is_verified_with_the_secrets_and_keys_that_are_told(api: Api) -> None:
    answer = api.client.get("/api/v1/webhook-secret")
    told = json_of(answer, 200)
    assert (told["object"], answer.headers["Cache-Control"]) == ("webhook_secret", "no-store")
    (key,) = json_of(api.client.get("/.well-known/webhook-keys"), 200)["keys"]
    assert {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig"}.items() <= key.items()

    signatures = api.keyring.signatures("evt_1", 1_750_000_000, b"{}", [told["secret"]])
    headers = {"webhook-id": "evt_1", "webhook-timestamp": "1750000000", "webhook-signature": signatures}
    verify(headers, b"{}", secrets=[told["secret"]], now=1_750_000_000)
    verify(headers, b"{}", secrets=[], public_keys=[key["whpk"]], now=1_750_000_000)
    raw = base64.urlsafe_b64decode(key["x"] + "=")
    v1a = signatures.partition("v1a,")[2]
    Ed25519PublicKey.from_public_bytes(raw).verify(base64.b64decode(v1a), b"evt_1.1750000000.{}")


def test_nothing_else_tells_a_secret(api: Api) -> None:
    endpoint = api.endpoint()
    test = json_of(api.client.post(endpoint["links"]["test"]), 202)
    told = [api.client.get(path) for path in (ENDPOINTS, path_of(endpoint), DELIVERIES, test["links"]["self"])]
    told.append(api.client.patch(path_of(endpoint), json={"url": f"https://{ALLOWED}/"}))

    assert not any("whsec_" in answer.get_data(as_text=True) for answer in told)
