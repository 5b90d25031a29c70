"""One request and its answer, as Flask sees them: an environment (PEP 3333) in, an iterable of bytes out."""

from __future__ import annotations

import logging
import sys
from asyncio import AbstractEventLoop, Future, Task
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any

from flask import Request

from api.incoming import Upload
from api.rsgi import Protocol, Scope

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

LEAVING = "ktqueue.leaving"
UNPREFIXED = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})

logger = logging.getLogger(__name__)


def leaving(request: Request) -> bool:
    """Whether nobody waits for the answer any more, or this process is about to stop: no reason to wait on."""
    asked: Callable[[], bool] | None = request.environ.get(LEAVING)
    return asked is not None and asked()


class Exchange:
    """Made on the event loop once the body may be read, run in a thread. ``ended`` is for the loop to wait on."""

    def __init__(
        self,
        scope: Scope,
        protocol: Protocol,
        body: bytes | Upload,
        *,
        stopping: Callable[[], bool],
        ended: Future[None],
    ) -> None:
        self._scope = scope
        self._protocol = protocol
        self._body = body
        self._stopping = stopping
        self._status = 0
        self._headers: list[tuple[str, str]] = []
        self.ended = ended
        self._gone = False
        self._watch: Task[None] | None = None

    def run(self, app: WSGIApplication) -> None:
        """Answer. Whatever goes wrong here is logged; the client is then told 500, or its stream ends."""
        try:
            self._answer(app(self._environ(), self._start))
        except Exception:
            logger.exception("%s %s was not answered", self._scope.method, self._scope.path)

    def end(self) -> None:
        """On the loop, when `run` is over."""
        self.ended.set_result(None)
        if self._watch is not None:
            self._watch.cancel()

    def watch(self, loop: AbstractEventLoop) -> None:
        """On the loop: notice from now on when the client hangs up."""
        if self._watch is None and not self.ended.done():
            self._watch = loop.create_task(self._notice())

    async def _notice(self) -> None:
        await self._protocol.client_disconnect()
        self._gone = True

    def _answer(self, parts: Iterable[bytes]) -> None:
        if self._stopping():
            self._headers.append(("Connection", "close"))
        if isinstance(parts, list):
            self._protocol.response_bytes(self._status, self._headers, b"".join(parts))
            return
        try:
            # It takes whatever it is given: no reader can hold up this thread.
            transport = self._protocol.response_stream(self._status, self._headers)
            for part in parts:
                transport.send_bytes(part)
                if self._leaving():
                    break
        finally:
            if (close := getattr(parts, "close", None)) is not None:
                close()

    def _start(self, status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], object]:
        self._status, self._headers = int(status[:3]), headers
        return _no_write

    def _leaving(self) -> bool:
        return self._gone or self._stopping()

    def _environ(self) -> WSGIEnvironment:
        scope = self._scope
        address, _, port = scope.server.rpartition(":")
        environ: WSGIEnvironment = {
            "REQUEST_METHOD": scope.method,
            "SCRIPT_NAME": "",
            # As PEP 3333 wants it: the bytes of the path, each as one character.
            "PATH_INFO": scope.path.encode().decode("latin-1"),
            "QUERY_STRING": scope.query_string,
            "SERVER_NAME": address,
            "SERVER_PORT": port,
            "SERVER_PROTOCOL": f"HTTP/{scope.http_version}",
            "REMOTE_ADDR": scope.client.rpartition(":")[0],
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": scope.scheme,
            "wsgi.input": BytesIO(self._body) if isinstance(self._body, bytes) else self._body,
            "wsgi.input_terminated": True,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            LEAVING: self._leaving,
        }
        self._add_headers(environ)
        return environ

    def _add_headers(self, environ: WSGIEnvironment) -> None:
        headers, others = self._scope.headers, len(environ)
        for name, value in headers.items():
            key = _key(name)
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        if len(environ) - others < len(headers):
            # The value of one is not ASCII. It was sent all the same: a broken Idempotency-Key is not none.
            for name in headers:
                environ.setdefault(_key(name), "")


def _key(header: str) -> str:
    name = header.upper().replace("-", "_")
    return name if name in UNPREFIXED else f"HTTP_{name}"


def _no_write(_: bytes) -> object:
    raise TypeError("write() of PEP 3333 is for frameworks older than Flask")
