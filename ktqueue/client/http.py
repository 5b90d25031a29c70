"""The two shells' input and output: `Io` over httpx, once with waiting coroutines and once with none."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from ktqueue.client.errors import ConnectionFailed
from ktqueue.client.wire import Request
from ktqueue.settings import LOOPBACK

NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def base_url(url: str) -> httpx.URL:
    """The address of a server. Raises ValueError if it is not one."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not a URL: {error}") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError(f"{url!r} is not the URL of a server; write http://host:port or https://host")
    return parsed


def trusts_proxies(url: httpx.URL) -> bool:
    """Whether the environment's proxies may be used: never to reach this machine itself."""
    return url.host not in LOOPBACK


def headers_of(api_key: str | None) -> dict[str, str]:
    """What every request says of its sender. Raises ValueError for what can be no header."""
    if api_key is None:
        return {}
    if not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("the API key is not printable ASCII")
    return {"Authorization": f"Bearer {api_key}"}


@contextmanager
def connection_errors(url: httpx.URL) -> Iterator[None]:
    """Turns httpx's errors into ours."""
    try:
        yield
    except NEVER_SENT as error:
        raise ConnectionFailed(f"can't reach {url}: {_reason(error)}", sent=False) from error
    except httpx.RequestError as error:
        raise ConnectionFailed(f"lost {url}: {_reason(error)}", sent=True) from error


def _reason(error: httpx.RequestError) -> str:
    return str(error) or type(error).__name__


def http_request(http: httpx.Client | httpx.AsyncClient, request: Request) -> httpx.Request:
    """A request as httpx sends it; the time-out for reading grows by what the server may take on purpose."""
    timeout = httpx.Timeout(http.timeout)
    timeout.read = None if timeout.read is None else timeout.read + request.hold_s
    return http.build_request(
        request.method,
        request.path,
        params=list(request.query) or None,
        headers=dict(request.headers),
        content=request.body,
        timeout=timeout,
    )


@dataclass(frozen=True, slots=True)
class AsyncStream:
    """An answer that is still being read."""

    response: httpx.Response
    url: httpx.URL

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.response.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """By name, in any case."""
        return self.response.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises ConnectionFailed."""
        with connection_errors(self.url):
            async for chunk in self.response.aiter_bytes():
                yield chunk

    async def close(self) -> None:
        """Give the connection back, or up."""
        await self.response.aclose()


class SyncStream(AsyncStream):
    """The same without a suspension."""

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises ConnectionFailed."""
        with connection_errors(self.url):
            for chunk in self.response.iter_bytes():
                yield chunk

    async def close(self) -> None:
        """Give the connection back, or up."""
        self.response.close()


@dataclass(frozen=True, slots=True)
class AsyncIo:
    """`Io` whose coroutines wait."""

    http: httpx.AsyncClient
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    async def open(self, request: Request) -> AsyncStream:
        """Send, and return once the head of the answer is here. Raises ConnectionFailed."""
        with connection_errors(self.http.base_url):
            response = await self.http.send(http_request(self.http, request), stream=True)
        return AsyncStream(response, self.http.base_url)


@dataclass(frozen=True, slots=True)
class SyncIo:
    """`Io` whose coroutines never suspend: whoever runs one step of them has run them to their end."""

    http: httpx.Client
    pause: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random

    async def open(self, request: Request) -> SyncStream:
        """Send, and return once the head of the answer is here. Raises ConnectionFailed."""
        with connection_errors(self.http.base_url):
            response = self.http.send(http_request(self.http, request), stream=True)
        return SyncStream(response, self.http.base_url)

    async def sleep(self, seconds: float) -> None:
        """Wait, holding the thread."""
        self.pause(seconds)
