"""What may come back from a receiver: friendly, broken and hostile answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.support.receivers import (
    OK,
    Visit,
    once,
    post,
    receiving,
    saying,
    sending,
)
from worker.outgoing.connection import READ_BYTES, Connection
from worker.sender import open_connection


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, ""),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", 200, "abcde"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + OK, 200, "ok"),
        (b"HTTP/1.1 500 \r\ncontent-length: 4\r\n\r\nno\x00\xff", 500, "no\ufffd\ufffd"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n" + b"x" * 2000, 200, "x" * 1024),
        (b"HTTP/1.1 410 Gone\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc", 410, "abc"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n€".encode(), 200, "€"),
    ],
)
def test_an_answer_is_its_status_and_how_it_begins(answer: bytes, status: int, body: str) -> None:
    told, _ = once(saying(answer))

    assert (told.status, told.error, told.body) == (status, None, body)
    assert told.duration_ms >= 0


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"-ERR unknown command 'POST'\r\n",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        b"HTTP/9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2x\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000,
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
    ],
)
def test_an_answer_that_is_not_http_is_named_so(answer: bytes) -> None:
    told, _ = once(saying(answer, then_close=True))

    assert (told.status, told.body) == (None, "")
    assert told.error == ("answer_malformed" if answer else "connection_failed")


async def endless(visit: Visit, beginning: bytes, more: bytes) -> None:
    await visit.request()
    await visit.say(beginning)
    while True:
        await visit.say(more)


@pytest.mark.parametrize(
    ("beginning", "more"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 100),
    ],
)
def test_an_endless_body_is_not_listened_to(beginning: bytes, more: bytes) -> None:
    told, _ = once(partial(endless, beginning=beginning, more=more))

    assert (told.status, told.error, told.body) == (200, None, "x" * 1024)


@pytest.mark.parametrize(
    ("beginning", "more"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n" * 100),
        (b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nx: ", b"y" * 1000),
    ],
)
def test_an_endless_head_is_not_listened_to(beginning: bytes, more: bytes) -> None:
    told, _ = once(partial(endless, beginning=beginning, more=more))

    assert (told.status, told.error) == (None, "answer_malformed")


def test_what_a_connection_holds_of_an_answer_is_bounded() -> None:
    async def run() -> None:
        script = partial(endless, beginning=b"HTTP/1.1 200 OK\r\n\r\n", more=b"x" * READ_BYTES)
        made = []

        async def connect(make: Callable[[], Connection], *place: Any) -> Connection:
            made.append(await open_connection(make, *place))
            return made[-1]

        async with receiving(script) as receiver, sending(connect=connect) as sender:
            assert (await post(sender, receiver.url())).good
            await receiver.visits[0].over.wait()

        assert len(made[0]._reply.body) == 1024
        assert made[0]._reply.received <= 2 * READ_BYTES + 262_144  # a read of asyncio's is up to 256 KiB

    asyncio.run(run())


@pytest.mark.parametrize(
    "beginning", [b"", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc"]
)
def test_time_is_bounded_however_slowly_it_comes(beginning: bytes) -> None:
    told, receiver = once(saying(beginning), timeout_s=0.2)

    assert (told.status, told.error) == (None, "timeout")
    assert 200 <= told.duration_ms < 10_000
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("beginning", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nx: ", b"y"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"y"),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    ],
)
def test_a_drop_now_and_then_buys_no_time(beginning: bytes, drop: bytes) -> None:
    async def drips(visit: Visit) -> None:
        await visit.request()
        await visit.say(beginning)
        while True:
            await visit.say(drop)
            await asyncio.sleep(0.01)

    told, _ = once(drips, timeout_s=0.3)

    assert (told.status, told.error) == (None, "timeout")


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        (b"retry-after: 120\r\n", 120),
        (b"Retry-After: 0\r\n", 0),
        (b"retry-after: 999999999\r\n", 86_400),
        (b"retry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\ndate: Fri, 31 Dec 1999 23:58:59 GMT\r\n", 60),
        (b"retry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\ndate: Sat, 01 Jan 2000 23:58:59 GMT\r\n", 0),
        (b"retry-after: Fri, 31 Dec 9999 23:59:59 GMT\r\ndate: Sat, 01 Jan 2000 23:58:59 GMT\r\n", 86_400),
        (b"retry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\n", None),
        (b"retry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\ndate: now\r\n", None),
        (b"retry-after: Fri, 31 Dec 1999 23:59:59 -0000\r\ndate: Fri, 31 Dec 1999 23:58:59 GMT\r\n", None),
        (b"retry-after: Fri, 31 Dec " + b"9" * 20 + b" 23:59:59 GMT\r\ndate: Fri, 31 Dec 1999 23:58:59 GMT\r\n", None),
        (b"retry-after: Fri, 31 Dec 1999 23:59:59 +" + b"9" * 20 + b"\r\ndate: now\r\n", None),
        (b"retry-after: -1\r\n", None),
        (b"retry-after: 1.5\r\n", None),
        (b"retry-after: \xff\r\n", None),
        (b"retry-after: " + b"9" * 5_000 + b"\r\n", None),
        (b"", None),
    ],
)
def test_retry_after_is_read_with_care(headers: bytes, wait: int | None) -> None:
    told, _ = once(saying(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n" + headers + b"\r\n"))

    assert (told.status, told.retry_after_s) == (503, wait)
