"""Asks an instance how it is."""

from __future__ import annotations

import asyncio

import httpx

from ktqueue.upstreams import Upstream
from worker.engines.upstream.kinds import health_url

PROBE_S = 5.0
"""How long it may take to say so."""


async def well(client: httpx.AsyncClient, upstream: Upstream) -> str | None:
    """None if it is; else what is wrong. A server that has no such page is there all the same."""
    try:
        async with asyncio.timeout(PROBE_S), client.stream("GET", health_url(upstream)) as response:
            status = response.status_code
    except TimeoutError:
        return f"says nothing for {PROBE_S:g} s"
    except httpx.HTTPError as error:
        return f"can't be reached: {type(error).__name__}"
    return f"answers {status}" if status in {401, 403} or status >= httpx.codes.INTERNAL_SERVER_ERROR else None
