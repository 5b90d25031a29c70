"""Receivers of webhooks on loopback that play a script, and a sender that finds them."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

from ktqueue.webhook import Answer
from ktqueue.webhook_addresses import Address, AddressRules, Destination
from worker.outgoing.connection import Connection
from worker.sender import Sender, open_connection, tls_context

HEADERS = {"webhook-id": "evt_1", "content-type": "application/json", "user-agent": "ktqueue/0"}
BODY = b'{"id":"evt_1"}'
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
PUBLIC, OTHER, PRIVATE = "8.8.8.8", "9.9.9.9", "10.0.0.1"
PORTS = "80,443,8080,8443"
TLS = tls_context()

Script = Callable[["Visit"], Awaitable[None]]


@dataclass
class Visit:
    """One connection that a receiver took, with the requests that came over it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def request(self) -> None:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        self.requests.append((head, await self.reader.readexactly(int(length.split(b":")[1]))))

    def reset(self) -> None:
        """Break the connection off, with all that is on its way."""
        self.writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


class Receiver:
    def __init__(self, port: int) -> None:
        self.port = port
        self.visits: list[Visit] = []

    @property
    def requests(self) -> list[bytes]:
        return [head for visit in self.visits for head, _ in visit.requests]

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@asynccontextmanager
async def receiving(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A server on loopback that plays ``script`` to each connection."""
    here: Receiver

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = Visit(reader, writer)
        here.visits.append(visit)
        try:
            await script(visit)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the sender hung up
        finally:
            visit.over.set()
            writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=tls)
    here = Receiver(server.sockets[0].getsockname()[1])
    try:
        yield here
    finally:
        server.close()
        for visit in here.visits:
            visit.writer.transport.abort()
        await asyncio.gather(*(visit.over.wait() for visit in here.visits))


@asynccontextmanager
async def sending(allow: str = "127.0.0.1", **parts: Any) -> AsyncIterator[Sender]:
    """A sender that may call public addresses and what ``allow`` names; ``parts`` stand in for its own."""
    sender = Sender(AddressRules(allow, PORTS), **{"tls": TLS, **parts})
    try:
        yield sender
    finally:
        sender.close()
        await asyncio.sleep(0)


async def post(sender: Sender, url: str, *, timeout_s: float = 20.0) -> Answer:
    return await sender.send(url, HEADERS, BODY, timeout_s=timeout_s)


async def well(visit: Visit) -> None:
    while True:
        await visit.request()
        await visit.say(OK)


def saying(answer: bytes, *, then_close: bool = False) -> Script:
    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.say(answer)
        if not then_close:
            await visit.reader.read()

    return script


def names(**of: Sequence[str]) -> Callable[[str], Awaitable[list[Address]]]:
    """A resolver that knows one answer for each turn, the addresses separated by spaces; its last one stays."""
    turns = {name.replace("_", "."): list(answers) for name, answers in of.items()}

    async def resolve(host: str) -> list[Address]:
        answers = turns[host]
        said = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ip_address(text) for text in said.split()]

    return resolve


@dataclass
class Detour:
    """Connects to a receiver on loopback instead, whatever the address, and notes where it was to go."""

    port: int
    dead: Iterable[str] = ()
    taken: list[str] = field(default_factory=list)

    async def __call__(
        self, make: Callable[[], Connection], address: Address, to: Destination, tls: ssl.SSLContext | None
    ) -> Connection:
        self.taken.append(str(address))
        if str(address) in self.dead:
            raise ConnectionRefusedError
        return await open_connection(make, ip_address("127.0.0.1"), replace(to, port=self.port), tls)


def once(script: Script, **of: Any) -> tuple[Answer, Receiver]:
    """One attempt at a receiver that plays ``script``."""

    async def run() -> tuple[Answer, Receiver]:
        async with receiving(script) as receiver, sending() as sender:
            return await post(sender, receiver.url(), **of), receiver

    return asyncio.run(run())
