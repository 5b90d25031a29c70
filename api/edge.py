"""Between granian's event loop, where clients may be as slow as they like, and Flask's threads, which are few.

A thread is given a request whose body is there, and an answer that it hands over in one go. Where it must keep pace
with a client, for a bulk submit that is stored as it comes, only some of the threads may.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from flask import Response

from api.body import too_large
from api.bulk import BULK
from api.errors import TooBusy, refused
from api.exchange import Exchange
from api.incoming import SMALL, Incoming, Upload
from api.rsgi import Protocol, Scope
from api.waits import Waits
from ktqueue.errors import KtqueueError
from ktqueue.process import announce
from ktqueue.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

BODIES_BYTES = 64_000_000
"""Most bytes of bodies that are held at once; those that are small do not count, for connections are bounded."""
WATCH_AFTER_S = 1.0
"""An answer that takes longer than this, or twice this, is watched: it ends with its client."""
LEAVE_S = 1.0
"""How long a stop lets clients take their connections elsewhere before the idle ones are closed."""


class Edge:
    """An RSGI application around a WSGI one. Made in each process of the server, after its fork."""

    def __init__(self, app: WSGIApplication, settings: Settings, stop_accepting: Callable[[], None]) -> None:
        self._app = app
        self._longest = settings.max_body_bytes
        self._room = max(BODIES_BYTES, 2 * self._longest)
        self._leave_s = min(LEAVE_S, settings.grace_seconds / 4)
        self._uploads = Waits(max(1, (settings.api_threads - settings.max_waits) // 2))
        self._stop_accepting = stop_accepting
        self._stopping = False
        self._exchanges: SimpleQueue[Exchange] = SimpleQueue()
        self._under_way: set[Exchange] = set()
        self._seen: set[Exchange] = set()
        for number in range(settings.api_threads):
            Thread(target=self._work, name=f"request-{number}", daemon=True).start()

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Granian calls this before it accepts connections."""
        self._loop = loop
        loop.add_signal_handler(signal.SIGTERM, self._leave)
        loop.call_soon(announce)
        loop.call_soon(self._look_round)

    async def __call__(self, scope: Scope, protocol: Protocol) -> None:
        """Granian calls this for each request."""
        incoming = Incoming(scope, protocol)
        try:
            if scope.path == BULK:
                await self._as_it_comes(scope, protocol, incoming)
            elif not incoming.there:
                await self._exchange(scope, protocol, b"")
            elif incoming.length is not None and incoming.length <= min(SMALL, self._longest):
                await self._exchange(scope, protocol, await incoming.at_once())
            else:
                await self._in_pieces(scope, protocol, incoming)
        except KtqueueError as error:
            await incoming.drop()
            _refuse(protocol, refused(error))

    async def _in_pieces(self, scope: Scope, protocol: Protocol, incoming: Incoming) -> None:
        if (incoming.length or 0) > self._longest:
            raise too_large(self._longest)
        parts: list[bytes] = []
        size = 0
        try:
            while part := await incoming.chunk():
                if len(part) > self._room:
                    raise TooBusy("too many large bodies are on their way in; try again")
                self._room -= len(part)
                size += len(part)
                if size > self._longest:
                    raise too_large(self._longest)
                parts.append(part)
            body = b"".join(parts)
            parts.clear()
            await self._exchange(scope, protocol, body)
        finally:
            self._room += size

    async def _as_it_comes(self, scope: Scope, protocol: Protocol, incoming: Incoming) -> None:
        with self._uploads.place() as free:
            if not free:
                raise TooBusy("as many bulk submits as may be are on their way in; try again")
            await self._exchange(scope, protocol, Upload(incoming, self._loop))

    async def _exchange(self, scope: Scope, protocol: Protocol, body: bytes | Upload) -> None:
        exchange = Exchange(scope, protocol, body, stopping=self._is_stopping, ended=self._loop.create_future())
        self._under_way.add(exchange)
        self._exchanges.put(exchange)
        await exchange.ended
        self._under_way.discard(exchange)

    def _look_round(self) -> None:
        """Watch whoever takes long: a timer for each that does not would cost more than all the rest of this."""
        for exchange in self._seen & self._under_way:
            exchange.watch(self._loop)
        self._seen = set(self._under_way)
        self._loop.call_later(WATCH_AFTER_S, self._look_round)

    def _work(self) -> None:
        while True:
            exchange = self._exchanges.get()
            exchange.run(self._app)
            self._loop.call_soon_threadsafe(exchange.end)

    def _is_stopping(self) -> bool:
        return self._stopping

    def _leave(self) -> None:
        """Told to stop: clients are sent elsewhere with their next answer, then granian ends what is left."""
        if not self._stopping:
            self._stopping = True
            self._stop_accepting()
            self._loop.call_later(self._leave_s, os.kill, os.getpid(), signal.SIGINT)


def _refuse(protocol: Protocol, response: Response) -> None:
    # What is left of the body is in the way of any other request.
    headers = [*response.headers.to_wsgi_list(), ("Connection", "close")]
    protocol.response_bytes(response.status_code, headers, response.get_data())
