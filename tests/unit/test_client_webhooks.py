"""What both clients do with webhooks, against a scripted server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from ktqueue.client import (
    ConnectionFailed,
    Delivery,
    InvalidRequest,
    NotFound,
    WaitTimeout,
    WebhookEndpoint,
    WebhookKey,
)
from ktqueue.webhook import DeliveryState
from tests.support.client import (
    BROKEN,
    Connect,
    Server,
    World,
    answer,
    delivery_json,
    endpoint_json,
    listing,
    problem,
)


def endpoint(**fields: Any) -> httpx.Response:
    return httpx.Response(200, json=endpoint_json(**fields))


def delivery(*told: Any) -> httpx.Response:
    return httpx.Response(200, json=delivery_json(*told))


# --- a job's own webhook ---


def test_a_submit_says_where_its_events_go(connect: Connect) -> None:
    webhook = {"url": "https://example.com/hook", "events": ["job.succeeded"]}
    server = Server(answer(webhook=webhook), httpx.Response(200, text='{"line": 1, "id": "job_1"}\n'))
    client = connect(server)
    job = client.call("submit", "echo", {"n": 1}, webhook=webhook)
    assert server.sent() == {"model": "echo", "input": {"n": 1}, "webhook": webhook}
    assert (job.webhook.url, job.webhook.events) == (webhook["url"], webhook["events"])
    list(client.items("submit_many", [{"model": "echo", "input": {}, "webhook": {"url": "https://example.com/"}}]))
    assert server.sent(1) == {"model": "echo", "input": {}, "webhook": {"url": "https://example.com/"}}


# --- endpoints ---


def test_an_endpoint_is_created_with_what_was_said_and_no_more(connect: Connect) -> None:
    server = Server(endpoint(secret="whsec_AAAA"), endpoint(model="echo"))
    client = connect(server)
    made = client.call("webhooks.create", "https://example.com/hook")
    client.call("webhooks.create", "https://example.com/", events=["job.failed"], model="echo", description="mine")
    assert server.lines == ["POST /api/v1/webhook-endpoints"] * 2
    assert server.sent(0) == {"url": "https://example.com/hook"}
    assert server.sent(1) == {
        "url": "https://example.com/",
        "events": ["job.failed"],
        "model": "echo",
        "description": "mine",
    }
    assert isinstance(made, WebhookEndpoint)
    assert (made.id, made.enabled, made.health.state) == ("whe_1", True, "closed")
    assert made.secret == "whsec_AAAA"
    assert "whsec" not in repr(made)


def test_endpoints_are_looked_at_changed_and_forgotten(connect: Connect) -> None:
    server = Server(
        listing([endpoint_json("whe_a"), endpoint_json("whe_b", enabled=False, disabled_reason="gone")]),
        endpoint(),
        endpoint(),
        endpoint(secret="whsec_BBBB"),
        httpx.Response(204),
    )
    client = connect(server)
    first, second = client.call("webhooks.list")
    assert (first.enabled, second.disabled_reason) == (True, "gone")
    assert client.call("webhooks.get", first).secret is None
    client.call("webhooks.update", "whe_a", model=None, enabled=False)
    assert client.call("webhooks.rotate", "whe_a").secret == "whsec_BBBB"
    assert client.call("webhooks.delete", first) is None
    assert server.lines == [
        "GET /api/v1/webhook-endpoints",
        "GET /api/v1/webhook-endpoints/whe_a",
        "PATCH /api/v1/webhook-endpoints/whe_a",
        "POST /api/v1/webhook-endpoints/whe_a/rotate",
        "DELETE /api/v1/webhook-endpoints/whe_a",
    ]
    assert server.sent(2) == {"model": None, "enabled": False}


def test_what_an_endpoint_missed_is_replayed(connect: Connect) -> None:
    server = Server(httpx.Response(200, json={"object": "replay", "deliveries": 7}))
    assert connect(server).call("webhooks.replay", "whe_1", datetime(2026, 1, 1, tzinfo=UTC)) == 7
    assert server.lines == ["POST /api/v1/webhook-endpoints/whe_1/replay"]
    assert server.sent() == {"since": "2026-01-01T00:00:00Z"}


def test_a_url_that_may_not_be_called_is_refused(connect: Connect) -> None:
    server = Server(problem(422, "invalid_request", "must be public", field="url"))
    with pytest.raises(InvalidRequest, match="must be public") as caught:
        connect(server).call("webhooks.create", "http://10.0.0.1/")
    assert caught.value.field == "url"


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("webhooks.create", ["https://example.com/"]),
        ("webhooks.rotate", ["whe_1"]),
        ("webhooks.test", ["whe_1"]),
        ("webhooks.replay", ["whe_1", datetime(2026, 1, 1, tzinfo=UTC)]),
        ("webhooks.redeliver", ["dlv_1"]),
    ],
)
def test_what_would_be_done_twice_is_not_sent_twice(connect: Connect, method: str, arguments: list[Any]) -> None:
    server = Server(BROKEN)
    with pytest.raises(ConnectionFailed):
        connect(server).call(method, *arguments)
    assert len(server.asked) == 1


def test_a_deletion_whose_answer_was_lost_is_done(connect: Connect) -> None:
    gone = problem(404, "not_found", "there is no webhook endpoint whe_1")
    assert connect(Server(BROKEN, gone)).call("webhooks.delete", "whe_1") is None
    with pytest.raises(NotFound):
        connect(Server(gone)).call("webhooks.delete", "whe_1")


# --- deliveries ---


def test_deliveries_are_filtered_and_paged(connect: Connect) -> None:
    server = Server(
        listing([delivery_json("dlv_3"), delivery_json("dlv_2")], "more"), listing([delivery_json("dlv_1", "failed")])
    )
    found = list(connect(server).items("webhooks.deliveries", endpoint="whe_1", state="pending"))
    assert [each.id for each in found] == ["dlv_3", "dlv_2", "dlv_1"]
    assert server.lines == [
        "GET /api/v1/deliveries?endpoint=whe_1&state=pending&limit=100",
        "GET /api/v1/deliveries?endpoint=whe_1&state=pending&limit=100&cursor=more",
    ]


def test_deliveries_of_a_job_tell_their_attempts(connect: Connect) -> None:
    server = Server(listing([delivery_json("dlv_1", "delivered", 500, "timeout", 204)]))
    (told,) = connect(server).items("webhooks.of_job", "job_1")
    assert server.lines == ["GET /api/v1/jobs/job_1/deliveries?limit=100"]
    assert (told.event.type, told.job, told.state) == ("job.succeeded", "job_1", DeliveryState.DELIVERED)
    assert [(made.number, made.status, made.error) for made in told.attempts_made] == [
        (1, 500, None),
        (2, None, "timeout"),
        (3, 204, None),
    ]


@pytest.mark.parametrize("seen", [("delivered", 500, 204), ("failed", 500, 410), ("pending", 500, 503)])
def test_what_is_sent_again_is_waited_for(connect: Connect, seen: tuple[Any, ...]) -> None:
    waiting = ("dlv_1", "pending", 500)
    server = Server(delivery(*waiting), delivery(*waiting), delivery(*waiting), delivery("dlv_1", *seen))
    client = connect(server)
    attempted = client.call("webhooks.attempted", client.call("webhooks.redeliver", "dlv_1"))
    assert isinstance(attempted, Delivery)
    assert (attempted.state, attempted.attempts_made[-1].status) == (seen[0], seen[-1])
    assert server.lines == ["POST /api/v1/deliveries/dlv_1/redeliver"] + ["GET /api/v1/deliveries/dlv_1"] * 3


def test_what_is_not_attempted_in_time_times_out(connect: Connect, world: World) -> None:
    server = Server(handler=lambda _: delivery("dlv_1", "pending"))
    client = connect(server)
    begun = client.call("webhooks.test", "whe_1")
    with pytest.raises(WaitTimeout, match="dlv_1 did not finish in time"):
        client.call("webhooks.attempted", begun, timeout=10)
    assert server.lines[0] == "POST /api/v1/webhook-endpoints/whe_1/test"
    assert sum(world.sleeps) == pytest.approx(10)
    assert len(server.asked) < 20


def test_a_delivery_that_is_gone_is_not_waited_for(connect: Connect) -> None:
    client = connect(Server(delivery("dlv_1", "pending"), problem(404, "not_found", "there is no delivery dlv_1")))
    with pytest.raises(NotFound):
        client.call("webhooks.attempted", client.call("webhooks.test", "whe_1"))


# --- what receivers verify with ---


def test_the_secret_and_the_keys_are_told(connect: Connect) -> None:
    key = {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k", "x": "AA", "whpk": "whpk_AA=="}
    server = Server(
        httpx.Response(200, json={"object": "webhook_secret", "secret": "whsec_CCCC"}),
        httpx.Response(200, json={"keys": [key]}),
    )
    client = connect(server)
    assert client.call("webhooks.secret") == "whsec_CCCC"
    (told,) = client.call("webhooks.public_keys")
    assert isinstance(told, WebhookKey)
    assert told.model_dump() == key
    assert server.lines == ["GET /api/v1/webhook-secret", "GET /.well-known/webhook-keys"]
