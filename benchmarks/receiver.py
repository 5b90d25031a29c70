"""``python -m benchmarks.receiver PORT …``: receives webhooks on loopback, at as little cost as Python allows.

One process, keep-alive. What a POST is answered depends on its path: 204 at once, but for `FAILS`, a 500, and for
`HANGS`, which is never answered. ``GET /count`` tells how many were answered 204, ``GET /taken`` which, and forgets
them: their ports, when each was here (Unix seconds) and their bodies.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import orjson

HANGS, FAILS = "/hangs", "/fails"
HOST = "127.0.0.1"
WELL = b"HTTP/1.1 204 No Content\r\n\r\n"
ILL = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
_HANGS, _FAILS = (f"POST {path} ".encode() for path in (HANGS, FAILS))


@dataclass(slots=True)
class Kept:
    """What was answered 204: port, instant, body."""

    arrivals: list[tuple[int, float, bytes]] = field(default_factory=list)

    def taken(self) -> bytes:
        """All of it, for the last time."""
        arrivals, self.arrivals = self.arrivals, []
        return orjson.dumps([(port, at, orjson.loads(body)) for port, at, body in arrivals])


class Connection(asyncio.Protocol):
    """One sender's, which waits for an answer before it sends the next request."""

    def __init__(self, port: int, kept: Kept) -> None:
        self._port = port
        self._kept = kept
        self._received = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Come from asyncio."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Come from asyncio."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if found and len(body) >= _length(head):
            self._received = b""
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /count "):
            self._transport.write(_ok(b"%d" % len(self._kept.arrivals)))
        elif head.startswith(b"GET /taken "):
            self._transport.write(_ok(self._kept.taken()))
        elif head.startswith(_FAILS):
            self._transport.write(ILL)
        elif not head.startswith(_HANGS):
            self._kept.arrivals.append((self._port, time.time(), body))
            self._transport.write(WELL)


def _length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].partition(b"\r\n")[0]) if at >= 0 else 0


def _ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def main(ports: list[int]) -> None:
    loop, kept = asyncio.get_running_loop(), Kept()
    for port in ports:
        await loop.create_server(lambda port=port: Connection(port, kept), HOST, port)  # type: ignore[misc]
    await loop.create_future()


if __name__ == "__main__":
    asyncio.run(main([int(port) for port in sys.argv[1:]]))
