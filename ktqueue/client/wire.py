"""What passes between the operations and whatever does their input and output. No I/O here.

The operations are coroutines over an `Io`. With one that really waits they make the asynchronous client; with one
whose coroutines never suspend, `run` and `iterate` turn the same operations into the synchronous client.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from ktqueue.client.errors import ApiError, ServerError, refusal, unreadable
from ktqueue.client.values import Value
from ktqueue.job import JsonObject

T = TypeVar("T")
V = TypeVar("V", bound=Value)


@dataclass(frozen=True, slots=True)
class Request:
    """``repeatable``: sending it twice does no more than sending it once. ``hold_s``: the server may take that long."""

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    repeatable: bool = True
    hold_s: float = 0.0


class Stream(Protocol):
    """An answer whose body has still to be read."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """By name, in any case."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises ConnectionFailed."""

    async def close(self) -> None:
        """Give the connection back, or up."""


class Io(Protocol):
    """All that the operations need of the world."""

    async def open(self, request: Request) -> Stream:
        """Send, and return once the head of the answer is here. Raises ConnectionFailed."""

    def sleep(self, seconds: float, /) -> Awaitable[None]:
        """Wait."""

    def now(self) -> float:
        """Seconds on a monotonic clock."""

    def jitter(self) -> float:
        """Uniform in [0, 1)."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> JsonObject:
        """The body, which must be a JSON object. Raises ServerError."""
        try:
            document = json.loads(self.body)
        except ValueError as error:
            raise unreadable("is not JSON", status=self.status) from error
        if not isinstance(document, dict):
            raise unreadable("is not a JSON object", status=self.status)
        return document

    def value(self, kind: type[V]) -> V:
        """The body as a value. Raises ServerError."""
        return self.parsed(kind, self.json())

    def values(self, kind: type[V]) -> list[V]:
        """The ``data`` of a list. Raises ServerError."""
        data = self.json().get("data")
        if not isinstance(data, list):
            raise unreadable("is not a list", status=self.status)
        return [self.parsed(kind, item) for item in data]

    def parsed(self, kind: type[V], document: object) -> V:
        """A part of the body as a value. Raises ServerError."""
        try:
            return kind.model_validate(document)
        except ValidationError as error:
            raise unreadable(f"is not a {kind.__name__.lower()}", status=self.status) from error

    @property
    def retry_after(self) -> float | None:
        """Seconds, where the server gave them; a date, which only proxies send, is not read."""
        value = self.headers.get("retry-after", "")
        return float(value) if value.isascii() and value.isdigit() else None

    def error(self) -> ApiError:
        """The error that an answer other than 2xx stands for (problem+json, RFC 9457; or whatever a proxy said)."""
        try:
            problem = self.json()
        except ServerError:
            problem = {}
        return refusal(self.status)(
            str(problem.get("detail") or problem.get("title") or f"the server answered {self.status}"),
            status=self.status,
            code=str(problem.get("code") or f"http_{self.status}"),
            field=str(problem.get("field") or ""),
            retry_after=self.retry_after,
        )


class Lines:
    """Splits what comes in chunks into lines that end with LF or CRLF."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that are whole now, without their ends."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        return [line.removesuffix(b"\r") for line in whole]


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends, because its `Io` does not."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("this Io suspends, so it needs an event loop: use AsyncClient")


def iterate(items: AsyncGenerator[T, None]) -> Iterator[T]:
    """The items of an asynchronous generator that never suspends; closes it, also when left early."""
    try:
        while True:
            try:
                item = run(items.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        run(items.aclose())
