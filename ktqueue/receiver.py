"""A receiver of webhooks on this machine, for development: it verifies what comes, and hands it on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self

from ktqueue.errors import NotVerified
from ktqueue.job import JsonObject
from ktqueue.webhook_signing import verify

HOST = "127.0.0.1"
LARGEST_BODY = 4 * 1024 * 1024
"""Far above what a webhook says, but a job's params and metadata are told whole."""
SILENCE_S = 30.0
"""A sender that says nothing for so long is hung up on."""


@dataclass(frozen=True, slots=True, repr=False)
class Trust:
    """What a request has to be signed with: with one of ``secrets``, and by one of ``public_keys`` as well."""

    secrets: Sequence[str]
    public_keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class Received:
    """A verified event: all of it, and when it was here, in Unix seconds on this machine's clock."""

    id: str
    type: str
    body: JsonObject
    at: float

    def __str__(self) -> str:
        """On one line: when it happened, what, to which job, and how far that is or why it failed."""
        data: JsonObject = self.body.get("data") or {}
        words = [self.body.get("timestamp"), self.type, data.get("id") or data.get("endpoint"), data.get("model")]
        if data.get("progress") is not None:
            words.append(f"{data['progress']:.0%}")
        if data.get("error"):
            words.append(f"{data['error']['message']} ({data['error']['code']})")
        return "  ".join(str(word) for word in words if word is not None)


@dataclass(frozen=True, slots=True)
class _Work:
    trust: Trust
    on_event: Callable[[Received], None]
    on_refusal: Callable[[str], None]


class _Refused(Exception):
    """The request is answered with ``status``; the text says why."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """One request; its connection is not kept."""

    protocol_version = "HTTP/1.1"
    timeout = SILENCE_S

    def __init__(self, work: _Work, *args: Any) -> None:
        self._work = work
        super().__init__(*args)  # which handles the request

    def handle(self) -> None:
        """Answer it, unless the sender goes away meanwhile."""
        try:
            super().handle()
        except ConnectionError:
            self._work.on_refusal("the sender hung up before it was answered")

    def do_POST(self) -> None:
        """204 once the event was handed on."""
        try:
            event = self._event()
        except _Refused as refusal:
            self._work.on_refusal(str(refusal))
            self._answer(refusal.status, str(refusal))
            return
        self._work.on_event(event)
        self._answer(HTTPStatus.NO_CONTENT)

    def _event(self) -> Received:
        body = self._body()
        now = time.time()  # noqa: TID251 - how old a request may be is measured on the receiver's own clock
        headers, trust = dict(self.headers.items()), self._work.trust
        try:
            verify(headers, body, secrets=trust.secrets, now=now)
            verify(headers, body, secrets=(), public_keys=trust.public_keys, now=now)
        except NotVerified as error:
            raise _Refused(HTTPStatus.UNAUTHORIZED, f"it does not verify: {error}") from error
        event = _object(body)
        return Received(str(event.get("id")), str(event.get("type")), event, now)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 12):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "it does not say how long its body is")
        if int(length) > LARGEST_BODY:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"its body has more than {LARGEST_BODY} bytes")
        return self.rfile.read(int(length))

    def _answer(self, status: HTTPStatus, text: str = "") -> None:
        self.send_response(status)
        self.send_header("Connection", "close")
        if text:
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing: whoever listens is told by the callbacks."""


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


class Receiver:
    """Listens on loopback from the start, so that its URL is known, and answers while it is `serving`.

    ``port`` 0 takes a free one. Raises OSError if it can't be had. Close it, or use it with ``with``.
    """

    def __init__(self, port: int = 0) -> None:
        self._server = _Server((HOST, port), BaseHTTPRequestHandler)

    @property
    def place(self) -> str:
        """``host:port``, as KTQ_WEBHOOK_ALLOW names it."""
        return f"{HOST}:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """Where webhooks should go."""
        return f"http://{self.place}/"

    @contextmanager
    def serving(
        self, trust: Trust, on_event: Callable[[Received], None], on_refusal: Callable[[str], None]
    ) -> Iterator[None]:
        """Answer 204 to each verified event once ``on_event`` has returned; 401, or another 4xx, to all else.

        Several threads call both at once; ``on_refusal`` is told why, in a line.
        """
        self._server.RequestHandlerClass = partial(_Handler, _Work(trust, on_event, on_refusal))
        thread = Thread(target=self._server.serve_forever, args=(0.05,), name="receiver", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()

    def close(self) -> None:
        """Listen no more."""
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _object(body: bytes) -> JsonObject:
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise _Refused(HTTPStatus.BAD_REQUEST, "its body is not a JSON object")
    return document
