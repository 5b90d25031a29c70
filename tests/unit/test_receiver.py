"""The receiver of webhooks, over real connections on loopback."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from ktqueue.receiver import LARGEST_BODY, Received, Receiver, Trust
from ktqueue.webhook_signing import Keyring, new_key, new_secret
from tests.support.stack import until

KEYRING = Keyring(new_key())
SECRET = new_secret()
EVENT = {
    "id": "evt_1_1000",
    "type": "job.succeeded",
    "timestamp": "2026-01-02T03:04:05.678Z",
    "data": {"id": "job_1", "model": "echo", "progress": None, "error": None},
}
BODY = json.dumps(EVENT).encode()


def headers(body: bytes = BODY, *, at: float | None = None, secret: str = SECRET, ring: Keyring = KEYRING) -> Any:
    timestamp = int(time.time() if at is None else at)
    signature = ring.signatures("evt_1_1000", timestamp, body, [secret])
    return {"webhook-id": "evt_1_1000", "webhook-timestamp": str(timestamp), "webhook-signature": signature}


@dataclass
class Listening:
    receiver: Receiver
    events: list[Received] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    def post(self, body: bytes = BODY, given: Any = None) -> httpx.Response:
        answer = httpx.post(self.receiver.url, content=body, headers=headers(body) if given is None else given)
        assert answer.headers["connection"] == "close"
        return answer

    def say(self, text: bytes) -> bytes:
        """What is answered to these bytes, after which nothing is sent."""
        host, port = self.receiver.place.split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65_536), b""))


@pytest.fixture
def listening() -> Iterator[Listening]:
    trust = Trust([new_secret(), SECRET], [key["whpk"] for key in KEYRING.public_keys()])
    with Receiver() as receiver:
        heard = Listening(receiver)
        with receiver.serving(trust, heard.events.append, heard.refusals.append):
            yield heard


def test_a_signed_event_is_handed_on_whole(listening: Listening) -> None:
    before = time.time()
    assert (listening.post().status_code, listening.post().content) == (204, b"")
    first, second = listening.events
    assert (first.id, first.type, first.body) == ("evt_1_1000", "job.succeeded", EVENT)
    assert before <= first.at <= second.at <= time.time()
    assert listening.refusals == []


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (dict, "no header webhook-id"),
        (lambda: headers(b"another"), "no signature"),
        (lambda: headers(secret=new_secret()), "no signature"),
        (lambda: headers(ring=Keyring(new_key())), "no signature"),
        (lambda: headers(at=time.time() - 3600), "300 s away"),
    ],
)
def test_what_does_not_verify_in_both_ways_is_refused(listening: Listening, given: Callable[[], Any], why: str) -> None:
    answer = listening.post(given=given())
    assert answer.status_code == 401
    assert why in answer.text
    assert (listening.events, listening.refusals) == ([], [answer.text])


@pytest.mark.parametrize("body", [b"[]", b"nonsense", b"\xff", b""])
def test_a_body_that_is_no_object_is_refused(listening: Listening, body: bytes) -> None:
    assert listening.post(body).status_code == 400
    assert listening.events == []


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("", 411),
        ("Content-Length: x\r\n", 411),
        ("Content-Length: -1\r\n", 411),
        ("Transfer-Encoding: chunked\r\n", 411),
        (f"Content-Length: {LARGEST_BODY + 1}\r\n", 413),
        ("Content-Length: 99\r\n", 401),
    ],
)
def test_a_body_without_bounds_is_not_read(listening: Listening, head: str, status: int) -> None:
    answer = listening.say(f"POST / HTTP/1.1\r\nHost: here\r\n{head}\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert len(listening.refusals) == 1


def test_only_post_is_understood(listening: Listening) -> None:
    assert httpx.get(listening.receiver.url).status_code == 501


def test_a_sender_that_goes_away_is_no_trouble(listening: Listening) -> None:
    host, port = listening.receiver.place.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # close by a reset
        connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")
    assert until(lambda: listening.refusals, "a word on it") == ["the sender hung up before it was answered"]
    assert listening.post().status_code == 204


def test_the_url_is_known_before_anything_is_answered() -> None:
    trust = Trust([SECRET], [key["whpk"] for key in KEYRING.public_keys()])
    events: list[Received] = []
    with Receiver() as receiver:
        host, port = receiver.place.split(":")
        with socket.create_connection((host, int(port))) as connection:  # waits in the backlog
            said = "".join(f"{name}: {value}\r\n" for name, value in headers().items())
            connection.sendall(f"POST / HTTP/1.1\r\nContent-Length: {len(BODY)}\r\n{said}\r\n".encode() + BODY)
            with receiver.serving(trust, events.append, pytest.fail):
                assert connection.recv(65_536).startswith(b"HTTP/1.1 204 ")
    assert [event.id for event in events] == ["evt_1_1000"]


def test_a_port_that_is_taken_is_an_error_and_is_given_back_at_the_end() -> None:
    with Receiver() as receiver:
        port = int(receiver.place.split(":")[1])
        with pytest.raises(OSError, match="in use"):
            Receiver(port)
    Receiver(port).close()


@pytest.mark.parametrize(
    ("kind", "data", "line"),
    [
        ("job.succeeded", {"id": "job_1", "model": "m"}, "job.succeeded  job_1  m"),
        ("job.progress", {"id": "job_1", "model": "m", "progress": 0.25}, "job.progress  job_1  m  25%"),
        (
            "job.failed",
            {"id": "job_1", "model": "m", "error": {"code": "boom", "message": "it broke"}},
            "job.failed  job_1  m  it broke (boom)",
        ),
        ("webhook.test", {"object": "webhook_test", "endpoint": "whe_1"}, "webhook.test  whe_1"),
    ],
)
def test_an_event_fits_on_a_line(kind: str, data: dict[str, Any], line: str) -> None:
    assert str(Received("evt_1", kind, {"timestamp": "then", "data": data}, 0.0)) == f"then  {line}"
