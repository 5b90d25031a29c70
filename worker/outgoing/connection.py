"""One HTTP/1.1 connection to a receiver that nobody vouches for: h11 reads, and every amount is bounded."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import h11

from ktqueue.webhook_addresses import Address

READ_BYTES = 65_536
"""Of an answer, head and body; who sends more is not listened to."""
KEPT_BYTES = 1_024
"""Of an answer's body."""
_SENT = (h11.Request(method="POST", target="/", headers=[("host", "-"), ("content-length", "0")]), h11.EndOfMessage())
"""What h11 is told of a request, which it reads the answer to. Were it to write them, it would take twice the time."""


class Lost(ConnectionError):
    """The receiver went away. ``untouched``: before anything of an answer came."""

    def __init__(self, *, untouched: bool) -> None:
        super().__init__("the receiver closed the connection")
        self.untouched = untouched


@dataclass(slots=True)
class Reply:
    """An answer as it comes. ``body`` is how it begins; names of ``headers`` are in lower case."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    received: int = 0


class Connection(asyncio.Protocol):
    """For one request at a time. ``reusable`` says, after a request, whether another may follow.

    ``ended`` is called once it is of no more use.
    """

    def __init__(self, address: Address, ended: Callable[[Connection], None]) -> None:
        self.address = address
        self.reusable = False
        self._ended = ended
        self._http = h11.Connection(h11.CLIENT)
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Reply] | None = None
        self._reply = Reply()

    async def exchange(self, request: bytes) -> Reply:
        """Send a whole POST request and return what is answered, or as much of it as we read.

        Raises Lost, ssl.SSLError, or h11.RemoteProtocolError if it is not HTTP.
        """
        if self._transport is None or self._transport.is_closing():
            raise Lost(untouched=True)
        self.reusable = False
        self._reply = Reply()
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            for event in _SENT:
                self._http.send(event)
            self._transport.write(request)
            return await self._waiting
        finally:
            self._waiting = None
            if not self.reusable:
                self.close()

    def close(self) -> None:
        """Drop it, with whatever is on its way."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Come from asyncio: it is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Come from asyncio: a part of the answer, or what nobody asked for."""
        if self._waiting is None:
            self.close()
            return
        self._reply.received += len(data)
        self._read(data)
        if self._reply.received > READ_BYTES:
            self._give_up_reading()

    def eof_received(self) -> None:
        """Come from asyncio: nothing more comes, which ends an answer that did not say how long it is."""
        if self._reply.received:
            self._read(b"")

    def connection_lost(self, error: Exception | None) -> None:
        """Come from asyncio: it is closed, by either side."""
        self.reusable = False
        self._fail(error if isinstance(error, ssl.SSLError) else Lost(untouched=not self._reply.received))
        self._ended(self)

    def _read(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():
            return
        try:
            self._http.receive_data(data)
            while not self._waiting.done():
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                self._take(event)
        except h11.RemoteProtocolError as error:
            self._fail(error)

    def _take(self, event: type[h11.NEED_DATA | h11.PAUSED] | h11.Event) -> None:
        match event:
            case h11.Response():
                self._reply.status = event.status_code
                self._reply.headers = list(event.headers)
            case h11.Data():
                self._reply.body += event.data[: KEPT_BYTES - len(self._reply.body)]
            case h11.EndOfMessage():
                self._finish()

    def _finish(self) -> None:
        """All of the answer is there; what comes after it belongs to no request, so then the connection is not kept."""
        http, transport = self._http, self._transport
        clean = http.our_state is http.their_state is h11.DONE and not http.trailing_data[0]
        if clean and transport is not None and not transport.get_write_buffer_size():
            http.start_next_cycle()
            self.reusable = True
        self._succeed()

    def _give_up_reading(self) -> None:
        if self._reply.status:
            self._succeed()
        else:
            self._fail(h11.RemoteProtocolError("its head is too long"))

    def _succeed(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(self._reply)

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
