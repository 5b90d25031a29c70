"""Both clients over real sockets that break: httpx's errors become the right ones of ours."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any, TypeAlias

import pytest

from ktqueue.client import AsyncClient, Client, ConnectionFailed, Job
from tests.support.client import job_json

JOB = json.dumps(job_json()).encode()
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(JOB), JOB)
HALF = WHOLE[:-20]
NOTHING = b""
EVENT = b'id: 0-1\nevent: state\ndata: {"state": "queued"}\n\n'
CUT_EVENTS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(EVENT), EVENT)
LAST_EVENT = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nid: 0-9\nevent: state\ndata: {"state": "cancelled"}\n\n'

Ask: TypeAlias = Callable[[str, str], Any]


@contextmanager
def server(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives each of its answers to one connection, and hangs up; its URL, and what it was asked."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    asked.append(_request(connection))
                    connection.sendall(answer)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        thread.join()


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(headers.get(b"content-length", b"0")):
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


async def _done(_: float) -> None:
    """Sleep not at all."""


def _sync(url: str, what: str) -> Any:
    with Client(url, jitter=lambda: 0.0) as client:
        answer = CALLS[what](client)
        return list(answer) if isinstance(answer, Iterator) else answer


def _async(url: str, what: str) -> Any:
    async def ask() -> Any:
        async with AsyncClient(url, jitter=lambda: 0.0, sleep=_done) as client:
            call = CALLS[what](client)
            return [item async for item in call] if hasattr(call, "__aiter__") else await call

    return asyncio.run(ask())


CALLS: dict[str, Callable[[Any], Any]] = {
    "submit": lambda client: client.submit("echo", {"n": 1}),
    "submit_many": lambda client: client.submit_many([{"model": "echo", "input": {}}]),
    "stream": lambda client: client.stream("job_1"),
}


@pytest.fixture(params=[_sync, _async])
def ask(request: pytest.FixtureRequest) -> Ask:
    chosen: Ask = request.param
    return chosen


def test_a_submit_survives_connections_that_break(ask: Ask) -> None:
    with server(NOTHING, HALF, WHOLE) as (url, asked):
        job = ask(url, "submit")
    assert isinstance(job, Job)
    keys = {line for request in asked for line in request.split(b"\r\n") if line.lower().startswith(b"idempotency-key")}
    assert (len(asked), len(keys)) == (3, 1)


def test_a_bulk_submit_is_not_sent_twice(ask: Ask) -> None:
    with server(NOTHING) as (url, asked), pytest.raises(ConnectionFailed) as caught:
        ask(url, "submit_many")
    assert caught.value.sent
    assert len(asked) == 1


def test_a_stream_resumes(ask: Ask) -> None:
    with server(CUT_EVENTS, NOTHING, LAST_EVENT) as (url, asked):
        told = ask(url, "stream")
    assert [event.id for event in told] == ["0-1", "0-9"]
    assert [b"last-event-id: 0-1" in request.lower() for request in asked] == [False, True, True]


@pytest.mark.parametrize("what", ["submit", "submit_many", "stream"])
def test_a_server_that_is_not_there(ask: Ask, what: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionFailed, match=f"can't reach http://127.0.0.1:{port}") as caught:
        ask(f"http://127.0.0.1:{port}", what)
    assert (caught.value.sent, caught.value.tries) == (False, 4)


def test_the_blocking_client_works_where_a_loop_runs() -> None:
    async def in_a_notebook(url: str) -> list[str]:
        with Client(url) as client:
            return [event.id for event in client.stream("job_1")]

    with server(LAST_EVENT) as (url, _):
        assert asyncio.run(in_a_notebook(url)) == ["0-9"]
