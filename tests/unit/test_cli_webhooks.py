"""``ktqueue webhooks`` and ``submit --webhook``, against a scripted server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest

from ktqueue.receiver import Receiver
from ktqueue.webhook_signing import Keyring, new_key, new_secret
from tests.support.cli import job, run
from tests.support.client import Server, delivery_json, endpoint_json, listing, problem

# --- a job's own webhook ---


def test_a_submit_says_where_its_events_go() -> None:
    server = Server(job(), job())
    run(server, "submit", "m", "--input", "{}", "--webhook", "https://example.com/hook")
    told = ["--webhook-event", "job.queued", "--webhook-event", "job.failed"]
    run(server, "submit", "m", "--input", "{}", "--webhook", "https://example.com/hook", *told)
    assert server.sent(0)["webhook"] == {"url": "https://example.com/hook"}
    assert server.sent(1)["webhook"] == {"url": "https://example.com/hook", "events": ["job.queued", "job.failed"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "m", "x", "--webhook-event", "job.failed"], "--webhook-event says what to tell a --webhook"),
        (["submit", "m", "x", "--webhook", "https://a/", "--webhook-event", "nope"], "'nope' is not one of"),
        (["submit", "--file", "x", "--webhook", "https://a/"], "with --file each line says all"),
        (["webhooks", "create", "https://a/", "--event", "webhook.test"], "'webhook.test' is not one of"),
        (["webhooks", "deliveries", "--state", "nope"], "'nope' is not one of"),
        (["webhooks", "redeliver"], "Missing argument"),
        (["webhooks", "listen", "--port", "65536"], "--port"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_sent(arguments: list[str], said: str) -> None:
    server = Server()
    result = run(server, *arguments)
    assert (result.exit_code, result.stdout, server.asked) == (2, "", [])
    assert said in result.stderr


# --- endpoints ---

ENDPOINTS = [
    endpoint_json(f"whe_{1:032x}"),
    endpoint_json("whe_b", model="chat", health={"state": "open", "failures": 7}),
    endpoint_json("whe_c", enabled=False, disabled_reason="gone"),
]


def test_endpoints_are_listed_with_how_they_fare() -> None:
    lines = run(Server(listing(ENDPOINTS)), "webhooks", "list").stdout.splitlines()
    events = "job.succeeded, job.failed"
    assert [" ".join(line.split()) for line in lines] == [
        "id url events model state",
        f"whe_{1:032x} https://example.com/hook {events} – well",
        f"whe_b https://example.com/hook {events} chat open, failed 7 × in a row",
        f"whe_c https://example.com/hook {events} – disabled (gone)",
    ]


def test_endpoints_as_json_are_what_the_server_said() -> None:
    result = run(Server(listing(ENDPOINTS)), "webhooks", "list", "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["id"] for each in told] == [each["id"] for each in ENDPOINTS]
    assert told[0].keys() == ENDPOINTS[0].keys()


def test_an_endpoint_is_created_and_its_secret_shown() -> None:
    made = endpoint_json(secret="whsec_AAAA")
    server = Server(httpx.Response(201, json=made), httpx.Response(201, json=made))
    options = ["--event", "job.failed", "--model", "chat", "--description", "mine"]
    result = run(server, "webhooks", "create", "https://example.com/hook", *options)
    assert result.stdout == "id      whe_1\nevents  job.succeeded, job.failed\nsecret  whsec_AAAA\n"
    assert server.sent() == {
        "url": "https://example.com/hook",
        "events": ["job.failed"],
        "model": "chat",
        "description": "mine",
    }
    told = json.loads(run(server, "webhooks", "create", "https://a/", "--json").stdout)
    assert told == made | {"created_at": told["created_at"]}
    assert server.sent(1) == {"url": "https://a/"}


def test_endpoints_are_deleted() -> None:
    server = Server(httpx.Response(204), httpx.Response(204), problem(404, "not_found", "there is no such endpoint"))
    assert run(server, "webhooks", "delete", "whe_1").stdout == "whe_1  deleted\n"
    assert json.loads(run(server, "webhooks", "delete", "whe_1", "--json").stdout) == {"id": "whe_1", "deleted": True}
    assert run(server, "webhooks", "delete", "whe_1").exit_code == 4


# --- deliveries ---


def test_deliveries_are_listed_no_more_than_asked_for() -> None:
    found = [delivery_json("dlv_3", "pending", 500), delivery_json("dlv_2", "delivered", 204), delivery_json("dlv_1")]
    server = Server(listing(found, "more"), listing(found))
    options = ["--endpoint", "whe_1", "--state", "pending", "--limit", "2"]
    lines = run(server, "webhooks", "deliveries", *options).stdout.splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "delivery event job to state attempts next attempt",
        "dlv_3 job.succeeded job_1 whe_1 pending 1 2026-01-02 03:04:11 UTC",
        "dlv_2 job.succeeded job_1 whe_1 delivered 1 –",
    ]
    assert server.lines == ["GET /api/v1/deliveries?endpoint=whe_1&state=pending&limit=100"]
    result = run(server, "webhooks", "deliveries", "--json")
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["dlv_3", "dlv_2", "dlv_1"]


def delivery(*told: Any) -> httpx.Response:
    return httpx.Response(200, json=delivery_json(*told))


@pytest.mark.parametrize(
    ("attempted", "code", "said"),
    [
        (("dlv_1", "delivered", 204), 0, "dlv_1  job.succeeded  delivered  204 after 12 ms\n"),
        (("dlv_1", "pending", 500), 1, "dlv_1  job.succeeded  pending  500 after 12 ms\n"),
        (("dlv_1", "failed", "timeout"), 1, "dlv_1  job.succeeded  failed  timeout after 12 ms\n"),
        (("dlv_1", "failed"), 1, "dlv_1  job.succeeded  failed\n"),
    ],
)
def test_a_test_waits_for_its_outcome_and_exits_by_it(attempted: tuple[Any, ...], code: int, said: str) -> None:
    server = Server(delivery("dlv_1", "pending"), delivery("dlv_1", "pending"), delivery(*attempted))
    result = run(server, "webhooks", "test", "whe_1")
    assert (result.exit_code, result.stdout) == (code, said)
    assert server.lines == ["POST /api/v1/webhook-endpoints/whe_1/test"] + ["GET /api/v1/deliveries/dlv_1"] * 2
    assert result.stderr == ("" if code == 0 else "Error: 1 of 1 deliveries were not taken\n")


def test_what_is_sent_again_is_begun_at_once_and_told_as_it_comes() -> None:
    again = [delivery(each, "pending", 500) for each in ("dlv_1", "dlv_2")]
    server = Server(*again, delivery("dlv_1", "delivered", 500, 204), delivery("dlv_2", "failed", 500, 410))
    result = run(server, "webhooks", "redeliver", "dlv_1", "dlv_2", "--json")
    assert [json.loads(line)["attempts_made"][-1]["status"] for line in result.stdout.splitlines()] == [204, 410]
    assert (result.exit_code, result.stderr) == (1, "Error: 1 of 2 deliveries were not taken\n")
    assert [line.partition(" ")[0] for line in server.lines] == ["POST", "POST", "GET", "GET"]


def test_a_test_that_takes_too_long_exits_5() -> None:
    server = Server(handler=lambda _: delivery("dlv_1", "pending"))
    assert run(server, "webhooks", "test", "whe_1", "--timeout", "0").exit_code == 5


def test_a_test_of_what_is_disabled_exits_4() -> None:
    server = Server(problem(409, "conflict", "webhook endpoint whe_1 is disabled; enable it first"))
    result = run(server, "webhooks", "test", "whe_1")
    assert (result.exit_code, result.stderr) == (4, "Error: webhook endpoint whe_1 is disabled; enable it first\n")


# --- listen ---


def test_a_server_that_may_not_call_this_machine_says_what_it_needs() -> None:
    refusal = problem(422, "invalid_request", "127.0.0.1 is not a public address", field="url")
    result = run(Server(refusal), "webhooks", "listen")
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == (
        "Error: 127.0.0.1 is not a public address; to call this machine, the server needs KTQ_WEBHOOK_ALLOW=127.0.0.1\n"
    )


def test_another_refusal_is_told_as_it_is() -> None:
    refusal = problem(404, "unknown_model", "no model named 'nope'", field="model")
    result = run(Server(refusal), "webhooks", "listen", "--model", "nope")
    assert (result.exit_code, result.stderr) == (4, "Error: no model named 'nope'\n")


def test_a_port_that_is_taken_is_said() -> None:
    with Receiver() as receiver:
        port = receiver.place.split(":")[1]
        result = run(Server(), "webhooks", "listen", "--port", port)
    assert result.exit_code == 2
    assert f"can't listen on port {port}: Address already in use" in result.stderr


@dataclass
class Service:
    """The part of the API that `listen` needs, over HTTP; and its sender."""

    keyring: Keyring = field(default_factory=lambda: Keyring(new_key()))
    secret: str = field(default_factory=new_secret)
    url: str = ""
    asked: list[str] = field(default_factory=list)
    registered: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        if path == "/api/v1/webhook-secret":
            return 200, {"object": "webhook_secret", "secret": self.keyring.default_secret()}
        if path == "/.well-known/webhook-keys":
            return 200, {"keys": self.keyring.public_keys()}
        if method == "POST":
            self.registered.append(json.loads(body))
            return 201, endpoint_json(url=self.registered[0]["url"], secret=self.secret)
        return 204, None

    def send(self, url: str, event: dict[str, Any], secret: str) -> int:
        body, timestamp = json.dumps(event).encode(), int(time.time())
        signature = self.keyring.signatures(event["id"], timestamp, body, [secret])
        headers = {"webhook-id": event["id"], "webhook-timestamp": str(timestamp), "webhook-signature": signature}
        return httpx.post(url, content=body, headers=headers).status_code


@pytest.fixture
def service() -> Iterator[Service]:
    serving = Service()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            status, document = serving.answer(self.command, self.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"" if document is None else json.dumps(document).encode())

        do_GET = do_POST = do_DELETE = handle_any  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield serving
        server.shutdown()
        thread.join()


@contextmanager
def listening(service: Service, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A running `listen` that says it is ready; it is terminated at the end, and leaves in good order."""
    command = [sys.executable, "-m", "ktqueue.cli", "webhooks", "listen", "--url", service.url, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == f"whe_1 is {service.registered[0]['url']}; Ctrl-C ends it\n"
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


def event(number: int, **data: Any) -> dict[str, Any]:
    told = {"id": f"job_{number}", "model": "echo", **data}
    return {"id": f"evt_{number}_1000", "type": "job.succeeded", "timestamp": "2026-01-02T03:04:05.678Z", "data": told}


def test_listen_prints_what_is_verified_and_takes_its_endpoint_away(service: Service) -> None:
    with listening(service, "--events", "job.succeeded", "--model", "echo") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        (asked,) = service.registered
        assert (asked["events"], asked["model"]) == (["job.succeeded"], "echo")
        assert service.send(asked["url"], event(1), service.secret) == 204
        assert process.stdout.readline() == "2026-01-02T03:04:05.678Z  job.succeeded  job_1  echo\n"
        assert service.send(asked["url"], event(2), service.keyring.default_secret()) == 204
        assert process.stdout.readline() == "2026-01-02T03:04:05.678Z  job.succeeded  job_2  echo\n"
        assert service.send(asked["url"], event(3), new_secret()) == 401
        assert process.stderr.readline().startswith("refused a request: it does not verify")
    assert service.asked[-1] == "DELETE /api/v1/webhook-endpoints/whe_1"


def test_listen_prints_json_and_keeps_its_endpoint_if_told_to(service: Service) -> None:
    with listening(service, "--json", "--keep") as process:
        assert process.stdout is not None
        assert "events" not in service.registered[0]
        assert service.send(service.registered[0]["url"], event(1, result={"n": 1}), service.secret) == 204
        assert json.loads(process.stdout.readline()) == event(1, result={"n": 1})
    assert not [line for line in service.asked if line.startswith("DELETE")]
