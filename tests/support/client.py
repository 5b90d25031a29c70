"""A scripted server and a world without time, for tests of the client and the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Protocol, TypeAlias, TypeVar

import httpx

from ktqueue.client import AsyncClient, Client

T = TypeVar("T")

REFUSED = httpx.ConnectError("refused")
BROKEN = httpx.ReadError("reset by peer")
LATE = httpx.ReadTimeout("too late")

Handler: TypeAlias = Callable[[httpx.Request], httpx.Response]


def job_json(job_id: str = "job_1", state: str = "queued", **fields: Any) -> dict[str, Any]:
    """A job as the API tells it."""
    return {
        "id": job_id,
        "object": "job",
        "model": "echo",
        "task": "echo",
        "state": state,
        "input": {"n": 1},
        "params": {},
        "result": {"n": 1} if state == "succeeded" else None,
        "error": {"code": "boom", "message": "it broke", "retryable": False} if state == "failed" else None,
        "priority": 5,
        "attempt": 0,
        "max_attempts": 3,
        "position": None,
        "eta_seconds": None,
        "progress": None,
        "created_at": "2026-01-02T03:04:05.678Z",
        "started_at": None,
        "finished_at": None,
        "deadline_at": None,
        "metadata": {},
        "webhook": None,
        "usage": None,
        "timing": {"queued_ms": 12, "run_ms": None, "largest_batch": None, "steps": None, "mean_batch": None},
        "links": {"self": f"/api/v1/jobs/{job_id}"},
        **fields,
    }


def answer(state: str = "queued", job_id: str = "job_1", status: int = 200, **fields: Any) -> httpx.Response:
    return httpx.Response(status, json=job_json(job_id, state, **fields))


def listing(items: Sequence[Any], next_cursor: str | None = None) -> httpx.Response:
    return httpx.Response(200, json={"object": "list", "data": list(items), "next_cursor": next_cursor})


def problem(
    status: int, code: str, detail: str = "no", *, retry_after: int | None = None, **more: Any
) -> httpx.Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    document = {"type": "about:blank", "title": "T", "status": status, "detail": detail, "code": code, **more}
    return httpx.Response(status, json=document, headers={**headers, "Content-Type": "application/problem+json"})


def endpoint_json(endpoint_id: str = "whe_1", **fields: Any) -> dict[str, Any]:
    """A webhook endpoint as the API tells it."""
    return {
        "id": endpoint_id,
        "object": "webhook_endpoint",
        "url": "https://example.com/hook",
        "events": ["job.succeeded", "job.failed"],
        "model": None,
        "description": "",
        "enabled": True,
        "disabled_reason": None,
        "created_at": "2026-01-02T03:04:05.678Z",
        "health": {"state": "closed", "failures": 0, "open_until": None, "failing_since": None},
        "links": {"self": f"/api/v1/webhook-endpoints/{endpoint_id}"},
        **fields,
    }


def delivery_json(delivery_id: str = "dlv_1", state: str = "pending", *statuses: int | str) -> dict[str, Any]:
    """A delivery as the API tells it, that was attempted with these statuses or errors."""
    made = [
        {
            "number": number,
            "at": "2026-01-02T03:04:06Z",
            "duration_ms": 12,
            "status": status if isinstance(status, int) else None,
            "error": status if isinstance(status, str) else None,
            "answer": "",
        }
        for number, status in enumerate(statuses, 1)
    ]
    return {
        "id": delivery_id,
        "object": "delivery",
        "event": {"id": "evt_1_1000", "type": "job.succeeded", "timestamp": "2026-01-02T03:04:05.678Z"},
        "job": "job_1",
        "endpoint": "whe_1",
        "url": "https://example.com/hook",
        "state": state,
        "attempts": len(made),
        "next_attempt_at": "2026-01-02T03:04:11Z" if state == "pending" else None,
        "links": {"self": f"/api/v1/deliveries/{delivery_id}"},
        "attempts_made": made,
    }


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in these chunks; an exception among them is raised in its place."""

    def __init__(self, *chunks: bytes | Exception) -> None:
        self._chunks = chunks
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class Server:
    """Answers each request with the next step of its script, or by a handler; keeps what it was asked.

    A step is an answer, or an exception: the connection fails so.
    """

    def __init__(self, *script: httpx.Response | Exception, handler: Handler | None = None) -> None:
        self._script = list(script)
        self._handler = handler
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if self._handler is not None:
            return self._handler(request)
        step = self._script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    @property
    def lines(self) -> list[str]:
        """What it was asked, as ``METHOD /path?query``."""
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.asked]

    def sent(self, index: int = 0) -> Any:
        """The JSON body of a request."""
        return json.loads(self.asked[index].content)


class World:
    """Time passes only when somebody sleeps, or the server says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)

    def jitter(self) -> float:
        return 1.0


class Subject(Protocol):
    """Either client, for tests that hold for both."""

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """The result of a method; ``webhooks.create`` is that of the client's webhooks."""

    def items(self, method: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """What a method yields."""

    def close(self) -> None:
        """Close the client."""


Connect: TypeAlias = Callable[..., Subject]
"""Makes a client, sync or async, of a scripted server."""


class SyncSubject:
    def __init__(self, server: Handler, world: World, **options: Any) -> None:
        self._client = Client(
            transport=httpx.MockTransport(server),
            sleep=world.sleep,
            clock=world.clock,
            jitter=world.jitter,
            **options,
        )

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return attrgetter(method)(self._client)(*args, **kwargs)

    def items(self, method: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from attrgetter(method)(self._client)(*args, **kwargs)

    def close(self) -> None:
        with self._client:
            pass


class AsyncSubject:
    def __init__(self, server: Handler, world: World, **options: Any) -> None:
        self._client = AsyncClient(
            transport=httpx.MockTransport(server),
            sleep=world.async_sleep,
            clock=world.clock,
            jitter=world.jitter,
            **options,
        )
        self._runner = asyncio.Runner()

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._runner.run(attrgetter(method)(self._client)(*args, **kwargs))

    def items(self, method: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        items: AsyncGenerator[Any, None] = attrgetter(method)(self._client)(*args, **kwargs)
        try:
            while True:
                try:
                    item = self._runner.run(_next(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._runner.run(items.aclose())

    def close(self) -> None:
        self._runner.run(self._leave())
        self._runner.close()

    async def _leave(self) -> None:
        async with self._client:
            pass


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items)
