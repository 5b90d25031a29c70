"""From host names to addresses, without holding up those who ask for another name."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from threading import Thread
from typing import Any

from ktqueue.webhook_addresses import Address

MOST_LOOKUPS = 64

GetAddrInfo = Callable[..., list[tuple[Any, ...]]]


class Resolver:
    """Asks the system. For each name there is one look-up at a time, so one dead name server costs one thread.

    Threads of its own, and not a pool's: an interpreter that ends waits for those, and a look-up may take a minute.
    """

    def __init__(self, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        self._getaddrinfo = getaddrinfo
        self._in_flight: dict[str, asyncio.Task[list[Address]]] = {}
        self._free = asyncio.Semaphore(MOST_LOOKUPS)

    async def __call__(self, host: str) -> list[Address]:
        """All addresses of ``host``, the best first; none if there is no such name, or nobody could say."""
        lookup = self._in_flight.get(host)
        if lookup is None:
            lookup = self._in_flight[host] = asyncio.create_task(self._look_up(host))
            lookup.add_done_callback(lambda _: self._in_flight.pop(host, None))
        return await asyncio.shield(lookup)

    async def _look_up(self, host: str) -> list[Address]:
        loop = asyncio.get_running_loop()
        async with self._free:
            answer: asyncio.Future[list[Address]] = loop.create_future()
            Thread(target=self._ask, args=(host, loop, answer), name=f"look up {host}", daemon=True).start()
            return await answer

    def _ask(self, host: str, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[list[Address]]) -> None:
        try:
            found = self._getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found = []
        addresses = list(dict.fromkeys(ip_address(place[4][0]) for place in found))
        with suppress(RuntimeError):  # the loop has ended meanwhile, so nobody waits
            loop.call_soon_threadsafe(partial(_tell, answer, addresses))


def _tell(answer: asyncio.Future[list[Address]], addresses: list[Address]) -> None:
    if not answer.done():
        answer.set_result(addresses)
