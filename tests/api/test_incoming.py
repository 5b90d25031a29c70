"""The pace that a body must keep, on an event loop where no time is wasted: it jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from api.errors import BodyStalled, Malformed
from api.incoming import LINGER_S, PATIENCE_S, SLOWEST, Incoming
from api.rsgi import Headers, Protocol, Scope, Transport

T = TypeVar("T")


class Hurried(asyncio.SelectorEventLoop):
    """Sleeps at once."""

    def __init__(self) -> None:
        super().__init__(_Impatient(self))
        self.skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped


class _Impatient(selectors.SelectSelector):
    def __init__(self, loop: Hurried) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout:
            self._loop.skipped += timeout
        return ready


def run(coroutine: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """What it returns, and how many seconds it took."""
    with asyncio.Runner(loop_factory=Hurried) as runner:
        loop = runner.get_loop()
        began = loop.time()
        return runner.run(coroutine), loop.time() - began


class Sent(Headers):
    def __init__(self, given: dict[str, str]) -> None:
        self._given = {name.replace("_", "-"): value for name, value in given.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def get(self, name: str) -> str | None:
        return self._given.get(name)

    def items(self) -> list[tuple[str, str]]:
        return list(self._given.items())


class Post(Scope):
    method, path, query_string, http_version, scheme = "POST", "/", "", "1.1", "http"
    server, client = "127.0.0.1:8000", "127.0.0.1:50000"

    def __init__(self, **headers: str) -> None:
        self.headers = Sent(headers)


class Sender(Protocol):
    """Sends each chunk after a pause, in seconds."""

    def __init__(self, *chunks: tuple[float, bytes]) -> None:
        self._chunks = list(chunks)

    async def __call__(self) -> bytes:
        return b"".join([chunk async for chunk in self])

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for pause, chunk in self._chunks:
            await asyncio.sleep(pause)
            yield chunk

    async def client_disconnect(self) -> None:
        return

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        raise AssertionError(status)

    def response_stream(self, status: int, headers: list[tuple[str, str]]) -> Transport:
        raise AssertionError(status)


async def all_of(incoming: Incoming) -> bytes:
    body = b""
    while chunk := await incoming.chunk():
        body += chunk
    return body


async def seconds_until_stalled(incoming: Incoming) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(BodyStalled):
        await all_of(incoming)
    return loop.time() - began


def incoming(*chunks: tuple[float, bytes], **headers: str) -> Incoming:
    return Incoming(Post(**headers), Sender(*chunks))


def test_a_slow_body_that_keeps_the_pace_is_read() -> None:
    second = b"x" * SLOWEST
    body, took = run(all_of(incoming(*[(1.0, second)] * 60, transfer_encoding="chunked")))

    assert len(body) == 60 * SLOWEST
    assert took == pytest.approx(60, abs=1)


@pytest.mark.parametrize(
    ("chunks", "seconds"),
    [
        ([], PATIENCE_S),
        ([(0.0, b"x" * 10 * SLOWEST)], PATIENCE_S),
        ([(1.0, b"x")] * 100, PATIENCE_S),
        ([(2.0, b"x" * SLOWEST)] * 100, 2 * PATIENCE_S),
    ],
    ids=["nothing comes", "a long pause", "a trickle", "half the pace"],
)
def test_a_body_that_does_not_is_given_up(chunks: list[tuple[float, bytes]], seconds: float) -> None:
    slow = incoming(*chunks, (1000.0, b"late"), transfer_encoding="chunked")
    took, _ = run(seconds_until_stalled(slow))

    assert took == pytest.approx(seconds, abs=2)


def test_a_small_body_has_its_time_in_all() -> None:
    body, _ = run(incoming((9.0, b"{}"), content_length="2").at_once())
    assert body == b"{}"

    with pytest.raises(BodyStalled):
        run(incoming((9.0, b"{"), (9.0, b"}"), content_length="2").at_once())


def test_a_body_that_ends_before_its_length_is_no_body() -> None:
    with pytest.raises(Malformed, match="ended before its length"):
        run(all_of(incoming((0.0, b"{"), content_length="2")))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"content_length": "100"}, LINGER_S), ({}, 0), ({"content_length": "9", "expect": "x"}, 0)],
)
def test_what_is_left_of_a_refused_body_is_dropped_for_a_moment(headers: dict[str, str], seconds: float) -> None:
    _, took = run(incoming(*[(0.5, b"x")] * 100, **headers).drop())

    assert took == pytest.approx(seconds, abs=0.5)
