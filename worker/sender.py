"""HTTP out: one attempt to deliver a webhook, to whoever is at a URL that somebody gave us.

Nothing here trusts that URL, its name servers or its answer. Proxies, cookies and redirects are not known here at all.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime

import certifi
import h11

from ktqueue.errors import Invalid
from ktqueue.webhook import Answer
from ktqueue.webhook_addresses import Address, AddressRules, Destination
from worker.outgoing.connection import Connection, Lost, Reply
from worker.outgoing.idle import IdleConnections
from worker.outgoing.resolver import Resolver

CONNECT_S = 3.0
"""For one address, while there is another to try."""
MOST_ADDRESSES = 4
LONGEST_RETRY_AFTER_S = 86_400

Resolve = Callable[[str], Awaitable[Sequence[Address]]]
Connect = Callable[[Callable[[], Connection], Address, Destination, "ssl.SSLContext | None"], Awaitable[Connection]]


class NotResolved(OSError):
    """Its host has no address, or no name server said so."""


class AddressRefused(Exception):
    """One of its addresses may not be called."""


class Sender:
    """Sends requests, many at once, over connections that are kept for a while. Belongs to one event loop."""

    def __init__(
        self,
        rules: AddressRules,
        *,
        resolve: Resolve | None = None,
        connect: Connect | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = rules
        self._resolve = resolve or Resolver()
        self._connect = connect or open_connection
        self._tls = tls or tls_context()
        self._idle = IdleConnections()

    async def send(self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float) -> Answer:
        """POST ``body``, once, in ``timeout_s`` at most. Whatever goes wrong is an answer too."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        reply, error = None, None
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._attempt(url, headers, body)
        except (Invalid, AddressRefused):
            error = "address_refused"
        except NotResolved:
            error = "name_not_resolved"
        except TimeoutError:
            error = "timeout"
        except ssl.SSLError:
            error = "tls_failed"
        except h11.RemoteProtocolError:
            error = "answer_malformed"
        except OSError:
            error = "connection_failed"
        return _answer(reply, error, round((loop.time() - began) * 1_000))

    def close(self) -> None:
        """Drop the connections that are kept."""
        self._idle.close()

    async def _attempt(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        to = self._rules.check_url(url)
        addresses = [to.address] if to.address is not None else await self._resolve(to.host)
        if not addresses:
            raise NotResolved
        if not self._rules.permits(to, addresses):
            raise AddressRefused
        request = _request(to, headers, body)
        kept = self._idle.take(to, addresses)
        if kept is not None:
            try:
                return await self._exchange(kept, to, request)
            except Lost as lost:
                # It had been closed at the other end while it waited: that is no news of the receiver.
                if not lost.untouched:
                    raise
        return await self._exchange(await self._open(to, addresses), to, request)

    async def _exchange(self, connection: Connection, to: Destination, request: bytes) -> Reply:
        reply = await connection.exchange(request)
        if connection.reusable:
            self._idle.put(to, connection)
        return reply

    async def _open(self, to: Destination, addresses: Sequence[Address]) -> Connection:
        """A new connection to the first of these addresses that takes one, and to no other."""
        *others, last = addresses[:MOST_ADDRESSES]
        for address in others:
            try:
                async with asyncio.timeout(CONNECT_S):
                    return await self._open_one(to, address)
            except ssl.SSLError:
                raise
            except OSError:
                continue
        return await self._open_one(to, last)

    async def _open_one(self, to: Destination, address: Address) -> Connection:
        tls = self._tls if to.scheme == "https" else None
        return await self._connect(lambda: Connection(address, self._idle.forget), address, to, tls)


async def open_connection(
    make: Callable[[], Connection], address: Address, to: Destination, tls: ssl.SSLContext | None
) -> Connection:
    """Connect to that very address; with TLS, its certificate must be for the host of the URL."""
    host = to.host if tls is not None else None
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(make, str(address), to.port, ssl=tls, server_hostname=host)
    return connection


def tls_context() -> ssl.SSLContext:
    """Verifies certificates with the system's authorities, those of SSL_CERT_FILE, and the common ones."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


def _request(to: Destination, headers: Mapping[str, str], body: bytes) -> bytes:
    """All of a request. Raises ValueError rather than let a header say more than one thing."""
    ours = {"host": to.host_header, "accept-encoding": "identity", "content-length": str(len(body))}
    lines = [f"POST {to.path} HTTP/1.1", *(f"{name}: {value}" for name, value in {**ours, **headers}.items())]
    if not all(line.isascii() and line.isprintable() for line in lines):
        raise ValueError("a header must be printable ASCII")
    return "\r\n".join([*lines, "", ""]).encode() + body


def _answer(reply: Reply | None, error: str | None, duration_ms: int) -> Answer:
    if reply is None:
        return Answer(None, error, duration_ms)
    text = reply.body.decode(errors="replace").replace("\x00", "\ufffd")  # PostgreSQL's text has no NUL
    return Answer(reply.status, None, duration_ms, text, _retry_after_s(reply.headers))


def _retry_after_s(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """What Retry-After asks for. A date is taken by the receiver's own clock, from its Date header."""
    said = {name: value.decode("latin-1") for name, value in headers if name in {b"retry-after", b"date"}}
    asked = said.get(b"retry-after")
    if asked is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", asked):
        return min(int(asked), LONGEST_RETRY_AFTER_S)
    try:
        wait = parsedate_to_datetime(asked) - parsedate_to_datetime(said.get(b"date", ""))
    except (TypeError, ValueError, OverflowError):  # the last of numbers beyond all dates
        return None
    return max(0, min(int(wait.total_seconds()), LONGEST_RETRY_AFTER_S))
