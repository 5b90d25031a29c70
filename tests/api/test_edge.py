"""Slow clients, clients that hang up, and an API that is told to stop, over real sockets."""

from __future__ import annotations

import json
import select
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from ktqueue.supervisor import listen
from tests.api.serving import GOOD, JOBS, MAX_BODY, Served, gone
from tests.support.stack import free_port, until

LINE = json.dumps(GOOD).encode() + b"\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[Served]:
    one = Served(tmp_path_factory.mktemp("api"), redis_server)
    yield one
    one.stop()


@pytest.fixture
def served(tmp_path: Path, redis_url: str) -> Iterator[Served]:
    one = Served(tmp_path, redis_url)
    yield one
    one.stop()


@pytest.fixture
def handed(tmp_path: Path, redis_url: str) -> Iterator[Served]:
    """One on a socket that outlives it."""
    [listener] = listen("127.0.0.1", free_port())
    with listener:
        one = Served(tmp_path, redis_url, listener)
        yield one
        one.stop()


def connect(served: Served, sent: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", served.settings.port), timeout=60)
    connection.sendall(sent)
    return connection


def head(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def upload(served: Served) -> socket.socket:
    """A bulk submit that has sent one line and says that there is more."""
    start = head(f"{JOBS}:bulk", "Content-Type: application/x-ndjson", "Content-Length: 1000")
    return connect(served, start + LINE)


def answer(connection: socket.socket) -> bytes:
    """Up to the end of the connection."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65_536), b""))


# --- bodies ----------------------------------------------------------------------------------------------------


def test_more_stalled_bodies_than_threads_keep_nobody_waiting(shared: Served) -> None:
    with ExitStack() as stack:
        for said in [100, 900_000] * shared.settings.api_threads:
            start = head(JOBS, "Content-Type: application/json", f"Content-Length: {said}")
            stack.enter_context(connect(shared, start + b" " * 50))
        assert shared.http.post(JOBS, json=GOOD).status_code == 202
        assert shared.http.get("/readyz").status_code == 200
    assert shared.http.get("/readyz").status_code == 200


def test_a_body_that_says_it_is_too_large_is_not_waited_for(shared: Served) -> None:
    refused = answer(connect(shared, head(JOBS, "Content-Type: application/json", f"Content-Length: {MAX_BODY + 1}")))

    assert refused.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in refused


@pytest.mark.parametrize("size", [60_000, 70_000, MAX_BODY])
def test_a_body_of_any_size_arrives_whole(shared: Served, size: int) -> None:
    text = json.dumps({"model": "echo", "input": {"x": ""}})
    document = text.replace('""', f'"{"x" * (size - len(text))}"')

    accepted = shared.http.post(JOBS, content=document, headers={"Content-Type": "application/json"})
    assert (len(document), accepted.status_code) == (size, 202)
    assert len(shared.http.get(accepted.headers["Location"]).json()["input"]["x"]) == size - len(text)


def test_only_some_threads_read_bulk_submits(shared: Served) -> None:
    most = (shared.settings.api_threads - shared.settings.max_waits) // 2
    with ExitStack() as stack:
        hold(stack, lambda: upload(shared), most, lambda: busy(shared))
        assert shared.http.post(JOBS, json=GOOD).status_code == 202
    until(lambda: not busy(shared), "a place to be free again")


def hold(stack: ExitStack, make: Callable[[], socket.socket], most: int, full: Callable[[], bool]) -> None:
    """Keep ``most`` connections that are not answered, until the service has no place for another."""
    held: list[socket.socket] = []

    def is_full() -> bool:
        for refused in select.select(held, [], [], 0)[0]:
            held.remove(refused)
        while len(held) < most:
            held.append(stack.enter_context(make()))
        return full()

    until(is_full, "every place to be taken")


def busy(shared: Served) -> bool:
    answer = shared.http.post(f"{JOBS}:bulk", content=LINE, headers={"Content-Type": "application/x-ndjson"})
    if answer.status_code == 503:
        assert (answer.json()["code"], answer.headers["Retry-After"]) == ("too_busy", "2")
    return answer.status_code == 503


def test_a_broken_idempotency_key_is_not_none(shared: Served) -> None:
    body = json.dumps(GOOD).encode()
    start = head(JOBS, "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close")
    refused = answer(connect(shared, start[:-2] + b"Idempotency-Key: \xc3\xa9\r\n\r\n" + body))

    assert refused.startswith(b"HTTP/1.1 400 ")


# --- clients that hang up --------------------------------------------------------------------------------------


def test_a_client_that_hangs_up_gives_its_wait_back(served: Served) -> None:
    job_id = served.submit()
    asked = f"GET {JOBS}/{job_id}?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with ExitStack() as stack:
        hold(stack, lambda: connect(served, asked), served.settings.max_waits, lambda: not has_place(served, job_id))

    until(lambda: has_place(served, job_id), "a place to be free again", 30)


def has_place(served: Served, job_id: str) -> bool:
    with served.http.stream("GET", f"{JOBS}/{job_id}/events") as stream:
        return stream.status_code == 200


# --- endings ---------------------------------------------------------------------------------------------------


def test_a_stop_answers_who_waits_and_ends_in_good_order(served: Served) -> None:
    family, job_id = served.family(), served.submit()
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(httpx.get, f"{served.url}{JOBS}/{job_id}", params={"wait": 60}, timeout=60)
        reading = pool.submit(httpx.get, f"{served.url}{JOBS}/{job_id}/events", timeout=60)
        assert wait([waiting, reading], timeout=1.0).done == set()
        served.process.send_signal(signal.SIGTERM)

        assert waiting.result().json()["state"] == "queued"
        assert waiting.result().headers["Connection"] == "close"
        assert '"queued"' in reading.result().text
    assert served.process.wait(30) == 0
    until(lambda: gone(family), "the end of every process")
    assert served.log.read_text() == ""


def test_a_socket_that_is_shared_outlives_a_stop(handed: Served) -> None:
    with httpx.Client(base_url=handed.url, timeout=60) as client:
        assert client.get("/healthz").status_code == 200
        handed.process.send_signal(signal.SIGTERM)

        def sent_away() -> bool:
            return bool(client.get("/healthz").headers.get("Connection") == "close")

        until(sent_away, "the kept-alive connection to be closed after an answer")
        with ThreadPoolExecutor(1) as pool:
            late = pool.submit(client.get, "/healthz")
            assert handed.process.wait(30) == 0
            assert not late.done()
            handed.process = handed.start()
            assert late.result().status_code == 200
