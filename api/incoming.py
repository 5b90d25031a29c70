"""A request's body on its way in, read on the event loop: whoever is slow keeps nobody else waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from api.errors import BodyStalled, Malformed
from api.rsgi import Protocol, Scope

T = TypeVar("T")

PATIENCE_S = 10.0
SLOWEST = 16_384
"""A body may pause for so long; and so long, in all, it may keep us waiting, and a second more for so many bytes."""
SMALL = 65_536
"""A body that says it is no longer than this is read in one go."""
LINGER_S = 2.0
"""How long the rest of a refused body is read and dropped: a client that still sends may miss an answer."""


class Incoming:
    """The body of one request. Every method raises BodyStalled if the client is too slow."""

    def __init__(self, scope: Scope, protocol: Protocol) -> None:
        self._protocol = protocol
        self._chunks: AsyncIterator[bytes] | None = None
        self._waited_s = 0.0
        self._received = 0
        length = scope.headers.get("content-length")
        self.length = None if length is None else int(length)
        """Bytes, if the client said so."""
        self.there = bool(self.length) or "transfer-encoding" in scope.headers
        """Whether there is a body at all."""
        self._worth_dropping = self.there and "expect" not in scope.headers

    async def at_once(self) -> bytes:
        """All of a body whose length is known and small. Raises Malformed if it broke off."""
        self._worth_dropping = False
        allowed_s = PATIENCE_S + (self.length or 0) / SLOWEST
        try:
            return await _within(allowed_s, self._protocol)
        except RuntimeError as error:
            raise Malformed("the body broke off, or its chunks are not well formed") from error

    async def chunk(self) -> bytes:
        """What came next, or b"" at the end. Raises Malformed if it ended before its length."""
        if self._chunks is None:
            self._chunks = aiter(self._protocol)
        loop = asyncio.get_running_loop()
        began = loop.time()
        left_s = min(PATIENCE_S, PATIENCE_S + self._received / SLOWEST - self._waited_s)
        try:
            data = await _within(left_s, self._chunks.__anext__)
        except StopAsyncIteration:
            data = b""
        except BodyStalled:
            self._worth_dropping = False
            raise
        self._waited_s += loop.time() - began
        self._received += len(data)
        if not data and self._received < (self.length or 0):
            raise Malformed("the body ended before its length")
        return data

    async def drop(self) -> None:
        """Read for a moment what still comes, so that the client comes to read its refusal."""
        if not self._worth_dropping:
            return
        try:
            async with asyncio.timeout(LINGER_S):
                while await self.chunk():
                    pass
        except (TimeoutError, Malformed, BodyStalled):
            return


class Upload:
    """A long body as a file that a thread reads while it comes in: no more than a chunk of it is in memory."""

    def __init__(self, incoming: Incoming, loop: asyncio.AbstractEventLoop) -> None:
        self._incoming = incoming
        self._loop = loop
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, b"" at the end or where it broke off. Raises BodyStalled."""
        if not self._rest:
            try:
                self._rest = asyncio.run_coroutine_threadsafe(self._incoming.chunk(), self._loop).result()
            except Malformed:
                return b""
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


async def _within(seconds: float, ask: Callable[[], Awaitable[T]]) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await ask()
    except TimeoutError as error:
        raise BodyStalled("the body came too slowly; send it again") from error
