"""One request, sent until it is answered or is not worth sending again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from ktqueue.client.errors import ApiError, ConnectionFailed, NotFound
from ktqueue.client.retrying import delay_before_retry
from ktqueue.client.wire import Io, Reply, Request, Stream

R = TypeVar("R")


class Sender:
    """Sends over an `Io`, again where that is safe; answers other than 2xx are raised as ApiError."""

    def __init__(self, io: Io, *, max_retries: int) -> None:
        self._io = io
        self._max_retries = max_retries

    async def call(self, request: Request) -> Reply:
        """The whole answer. Raises ConnectionFailed, ApiError."""
        return await self._persist(request, self._read)

    async def open(self, request: Request) -> Stream:
        """The answer's head, its body still to be read; the caller closes it. Raises ConnectionFailed, ApiError."""
        return await self._persist(request, self._open)

    async def delete(self, path: str) -> None:
        """Delete what is there. Raises ConnectionFailed; NotFound, if it was never there, and other ApiErrors."""
        try:
            await self.call(Request("DELETE", path))
        except NotFound as error:
            if error.tries == 1:
                raise
            # An earlier try had no answer: it was that one which deleted it.

    async def pause(self, error: ConnectionFailed | ApiError, *, tries: int, repeatable: bool = True) -> None:
        """Wait as long as should be waited after ``tries`` failures, or raise the error."""
        delay = delay_before_retry(
            error, tries=tries, max_retries=self._max_retries, repeatable=repeatable, jitter=self._io.jitter()
        )
        if delay is None:
            error.tries = tries
            raise error
        await self._io.sleep(delay)

    async def _persist(self, request: Request, attempt: Callable[[Request], Awaitable[R]]) -> R:
        tries = 0
        while True:
            tries += 1
            try:
                return await attempt(request)
            except (ConnectionFailed, ApiError) as error:
                failure = error
            await self.pause(failure, tries=tries, repeatable=request.repeatable)

    async def _read(self, request: Request) -> Reply:
        stream = await self._open(request)
        try:
            return await _whole(stream)
        finally:
            await stream.close()

    async def _open(self, request: Request) -> Stream:
        stream = await self._io.open(request)
        if 200 <= stream.status < 300:
            return stream
        try:
            reply = await _whole(stream)
        finally:
            await stream.close()
        raise reply.error()


async def _whole(stream: Stream) -> Reply:
    return Reply(stream.status, stream.headers, b"".join([chunk async for chunk in stream.chunks()]))
