"""The asynchronous client."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import httpx

from ktqueue.client.http import AsyncIo, base_url, headers_of, trusts_proxies
from ktqueue.client.operations import Operations


class AsyncClient(Operations):
    """A client for asyncio. Close it, or use it with ``async with``.

    ``timeout`` is for connecting and for each read, in seconds, on top of what a wait may take. A request that
    fails is sent again up to ``max_retries`` times where that is safe. ``api_key`` is what a server that asks for keys
    has given out. Raises ValueError for a bad ``url`` or key.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout: float = 30.0,
        max_retries: int = 3,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        base = base_url(url)
        self._http = httpx.AsyncClient(
            base_url=base,
            headers=headers_of(api_key),
            timeout=timeout,
            transport=transport,
            trust_env=trusts_proxies(base),
        )
        super().__init__(AsyncIo(self._http, sleep, clock, jitter), max_retries=max_retries)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
