"""An OpenAI-compatible server that behaves as it is told, badly above all. Real sockets, on an event loop of its own.

What it answers follows from what it was asked, so that any answer can be checked: see `answer_to` and `vector_of`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True)
class Manner:
    """How one request is answered.

    ``status`` with ``headers`` and ``body``; or, if that is 200, the stream: its first token after ``first_s``, each
    other after ``each_s``. ``end`` is how it ends: 'well'; 'reset' or 'close' after ``tokens`` of it; 'hang' there;
    'nonsense' or 'error' in its place; 'dropped', when it says that it is done there; 'late', a connection that stays
    open after that was said.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    first_s: float = 0.0
    each_s: float = 0.0
    end: str = "well"
    tokens: int = 0
    usage: bool = True
    done: bool = True


WELL = Manner()
SPOILT = {
    "nonsense": '{"choices": [{"ind',
    "error": '{"error": {"message": "out of memory"}}',
    "dropped": "[DONE]",
}


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


def answer_to(body: Mapping[str, Any], choice: int = 0) -> list[str]:
    """The tokens of an answer: what was asked, letter by letter and backwards, as many as were asked for."""
    said = body["prompt"] if "prompt" in body else "".join(each["content"] for each in body["messages"])
    return list(f"{said}{choice or ''}"[::-1])[: body.get("max_tokens", 16)]


def vector_of(text: str) -> list[float]:
    """A vector that tells texts apart."""
    return [float(len(text)), float(sum(map(ord, text)) % 97), 1.0]


class Upstream:
    """``manner`` says how the request with a number, from 1, is answered; ``most`` is how many it takes at once.

    One more than that is a ``breach``: it resets all that it has. With ``lingers_s`` it goes on with a request that was
    left for so long, and has it all the while. ``began_at`` and ``took`` are when requests came, monotonic, and how
    long it had each, in seconds.
    """

    def __init__(
        self,
        manner: Callable[[Asked], Manner] = lambda _: WELL,
        *,
        most: int = 1_000,
        lingers_s: float = 0.0,
        well: Callable[[], bool] = lambda: True,
    ) -> None:
        self.manner = manner
        self.most = most
        self.lingers_s = lingers_s
        self.well = well
        self.asked: list[Asked] = []
        self.probes = 0
        self.breaches = 0
        self.at_once = 0
        self.left = 0
        self.ends: Counter[str] = Counter()
        self.began_at: list[float] = []
        self.took: list[float] = []
        self.connections: set[asyncio.StreamWriter] = set()
        self._under_way: dict[int, asyncio.StreamWriter] = {}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None

    @contextmanager
    def serving(self) -> Iterator[Upstream]:
        """It serves from a thread of its own, and is gone afterwards with all its connections."""
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def now(self) -> int:
        """How many requests it has."""
        return len(self._under_way)

    def take_away(self) -> None:
        """From now on nobody can connect, and whoever had is cut off."""

        async def away() -> None:
            assert self._server is not None
            self._server.close()
            for writer in list(self.connections):
                _reset(writer)

        asyncio.run_coroutine_threadsafe(away(), self._loop).result()

    def bring_back(self) -> None:
        """As before."""
        self._socket = socket.create_server(("127.0.0.1", self.port))
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._connected, sock=self._socket)

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self.connections):
            _reset(writer)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(writer)
        try:
            while await self._serve(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection may be used again."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "GET":
            self.probes += 1
            return await _document(writer, 200 if self.well() else 503, {}, {"data": []})
        asked = Asked(len(self.asked) + 1, path, headers, json.loads(body))
        self.asked.append(asked)
        if len(self._under_way) >= self.most:
            self.breaches += 1
            for other in [*self._under_way.values(), writer]:
                _reset(other)
            return False
        self._under_way[asked.number] = writer
        began = time.monotonic()
        self.began_at.append(began)
        self.at_once = max(self.at_once, len(self._under_way))
        try:
            return await self._until_left(asked, self.manner(asked), reader, writer)
        finally:
            self.took.append(time.monotonic() - began)
            del self._under_way[asked.number]

    async def _until_left(
        self, asked: Asked, manner: Manner, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        answering = asyncio.ensure_future(self._answer(asked, manner, writer))
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                self.ends[manner.end] += 1
                return answering.result()
            self.left += 1
            await asyncio.sleep(self.lingers_s)
            return False
        finally:
            answering.cancel()
            leaving.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _answer(self, asked: Asked, manner: Manner, writer: asyncio.StreamWriter) -> bool:
        if manner.end == "reset" and not manner.tokens:
            _reset(writer)
            return False
        if manner.status != 200 or manner.body is not None:
            await asyncio.sleep(manner.first_s)
            return await _document(writer, manner.status, manner.headers, manner.body or {"error": {"message": "no"}})
        if manner.end == "hang" and not manner.tokens:
            await asyncio.sleep(3600)
        await asyncio.sleep(manner.first_s)
        if asked.path.endswith("/embeddings"):
            rows = [{"index": place, "embedding": vector_of(text)} for place, text in enumerate(asked.body["input"])]
            return await _document(writer, 200, {}, {"data": rows[::-1], "usage": {"prompt_tokens": 7}})
        return await self._stream(asked, manner, writer)

    async def _stream(self, asked: Asked, manner: Manner, writer: asyncio.StreamWriter) -> bool:
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {EVENTS}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        sent = 0
        choices = asked.body.get("n", 1)
        for choice in range(choices):
            tokens = answer_to(asked.body, choice)
            for place, token in enumerate(tokens):
                if manner.end != "well" and sent == manner.tokens:
                    return await _spoil(writer, manner.end)
                await asyncio.sleep(manner.each_s if sent else 0)
                await _event(writer, _chunk(asked, choice, token, self._finish(asked, place, tokens)))
                sent += 1
        if manner.usage:
            usage = {"prompt_tokens": 5, "completion_tokens": sent}
            await _event(writer, json.dumps({"choices": [], "usage": usage}))
        if manner.done:
            await _event(writer, "[DONE]")
        if manner.end == "late":
            await asyncio.sleep(3600)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    def _finish(self, asked: Asked, place: int, tokens: list[str]) -> str | None:
        if place < len(tokens) - 1:
            return None
        return "length" if len(tokens) == asked.body.get("max_tokens") else "stop"


def _chunk(asked: Asked, choice: int, token: str, finish: str | None) -> str:
    text: dict[str, Any] = (
        {"delta": {"content": token}} if asked.path.endswith("/chat/completions") else {"text": token}
    )
    if asked.body.get("logprobs") is True:
        text["logprobs"] = {"content": [{"token": token, "logprob": -0.5, "top_logprobs": []}]}
    elif "logprobs" in asked.body:
        text["logprobs"] = {"tokens": [token], "token_logprobs": [-0.5], "top_logprobs": [{"z": -1.5, token: -0.5}]}
    return json.dumps({"choices": [{"index": choice, **text, "finish_reason": finish}]})


async def _spoil(writer: asyncio.StreamWriter, end: str) -> bool:
    if end == "hang":
        await asyncio.sleep(3600)
    if end in SPOILT:
        await _event(writer, SPOILT[end])
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True
    if end == "close":
        writer.write(b"0\r\n\r\n")
        await writer.drain()
    else:
        _reset(writer)
    return False


async def _event(writer: asyncio.StreamWriter, data: str) -> None:
    line = f"data: {data}\n\n".encode()
    writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
    await writer.drain()


async def _document(writer: asyncio.StreamWriter, status: int, headers: Mapping[str, str], body: Any) -> bool:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: {JSON}\r\nContent-Length: {len(data)}\r\n{more}\r\n".encode())
    writer.write(data)
    await writer.drain()
    return True


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a process that dies does."""
    if (wire := writer.get_extra_info("socket")) is not None and wire.fileno() != -1:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
