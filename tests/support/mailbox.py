"""A receiver of webhooks in this process: it notes whatever arrives, verified or not, and answers as it is told to."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import httpx

from ktqueue.errors import NotVerified
from ktqueue.webhook_signing import verify

HOST = "127.0.0.1"


@dataclass(slots=True)
class Arrival:
    """One request. ``at``: when all of it was here, on the monotonic clock; ``flaw``: why it does not verify.

    ``answered`` is the status it was answered with; None until then.
    """

    path: str
    id: str
    body: bytes
    at: float
    flaw: str | None
    answered: int | None = None

    @property
    def event(self) -> dict[str, Any]:
        """What the body says."""
        document: dict[str, Any] = json.loads(self.body)
        return document

    @property
    def taken(self) -> bool:
        """Whether it was answered with a 2xx."""
        return self.answered is not None and 200 <= self.answered < 300


Answer: TypeAlias = Callable[[Arrival], int]


def well(_: Arrival) -> int:
    """Take it."""
    return 204


class Mailbox:
    """Listens on one port of loopback; each path is a receiver of its own.

    ``answers`` says how a path answers, `well` if nothing; it may take its time. `go_away` refuses connections.
    """

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.answers: dict[str, Answer] = {}
        self._secrets: dict[str, str] = {}
        self._default_secret = ""
        self._public_keys: Sequence[str] = ()
        self._connections: set[socket.socket] = set()
        self._socket = _bound(0)
        self._port: int = self._socket.getsockname()[1]
        self._server: ThreadingHTTPServer | None = None

    def url(self, path: str) -> str:
        """Where a path's webhooks go."""
        return f"http://{HOST}:{self._port}{path}"

    def trust(self, http: httpx.Client) -> None:
        """Learn what the service signs with."""
        self._default_secret = http.get("/api/v1/webhook-secret").raise_for_status().json()["secret"]
        keys = http.get("/.well-known/webhook-keys").raise_for_status().json()["keys"]
        self._public_keys = [key["whpk"] for key in keys]

    def register(self, http: httpx.Client, path: str, events: Sequence[str] | None = None) -> str:
        """Make a path an endpoint; its id."""
        wanted = {"url": self.url(path)} | ({} if events is None else {"events": list(events)})
        endpoint = http.post("/api/v1/webhook-endpoints", json=wanted).raise_for_status().json()
        self._secrets[path] = endpoint["secret"]
        return str(endpoint["id"])

    def at(self, path: str) -> list[Arrival]:
        """What has arrived there, in that order."""
        return [arrival for arrival in list(self.arrivals) if arrival.path == path]

    def come_back(self) -> None:
        """Listen again, or for the first time."""
        if self._server is not None:
            return
        server = ThreadingHTTPServer((HOST, 0), partial(_Handler, self), bind_and_activate=False)
        server.socket.close()
        server.socket, server.daemon_threads, server.request_queue_size = self._socket, True, 512
        server.server_activate()
        threading.Thread(target=server.serve_forever, args=(0.02,), name="mailbox", daemon=True).start()
        self._server = server

    def go_away(self) -> None:
        """Break off every connection and refuse new ones; the port stays ours."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        self._socket = _bound(self._port)
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """For good."""
        self.go_away()
        self._socket.close()

    def flaw(self, path: str, headers: dict[str, str], body: bytes) -> str | None:
        """What is wrong with a request."""
        now = time.time()
        try:
            verify(headers, body, secrets=[self._secrets.get(path, self._default_secret)], now=now)
            verify(headers, body, secrets=(), public_keys=self._public_keys, now=now)
        except NotVerified as error:
            return str(error)
        return None if json.loads(body).get("id") == headers["webhook-id"] else "webhook-id is not the event's"

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        """Note a request; how to answer it."""
        at = time.monotonic()
        lowered = {name.lower(): value for name, value in headers.items()}
        flaw = self.flaw(path, lowered, body)
        arrival = Arrival(path, lowered.get("webhook-id", ""), body, at, flaw)
        self.arrivals.append(arrival)
        arrival.answered = self.answers.get(path, well)(arrival)
        return arrival.answered

    @contextmanager
    def connected(self, connection: socket.socket) -> Iterator[None]:
        """Known as a connection that `go_away` breaks off, while the block runs."""
        self._connections.add(connection)
        try:
            yield
        finally:
            self._connections.discard(connection)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, mailbox: Mailbox, *args: Any) -> None:
        self._mailbox = mailbox
        super().__init__(*args)  # which handles the connection

    def handle(self) -> None:
        with self._mailbox.connected(self.connection), suppress(ConnectionError):
            super().handle()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self._mailbox.take(self.path, dict(self.headers.items()), body)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def mailbox() -> Iterator[Mailbox]:
    """One that listens while the block runs."""
    here = Mailbox()
    here.come_back()
    try:
        yield here
    finally:
        here.close()


def _bound(port: int) -> socket.socket:
    """A socket that holds the port, but does not listen: who connects is refused."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((HOST, port))
    return held
