"""Thousands of requests that no client should send: none is answered with a server error, none keeps a thread."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from threading import Event, Lock

import httpx
import pytest

from ktqueue.settings import Settings
from tests.support.abuse import Attack, Then, attack
from tests.support.stack import Stack, running, until

REQUESTS = int(os.environ.get("KTQ_TEST_REQUESTS", "1200"))
SEED = 3
CLIENTS = 12
GLANCE_S = 0.3
"""How long a client waits for an answer before it says that it will send no more."""
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
SCARCE = {"reader": (10, 10.0), "stalled": (60, 12.0), "lines": (30, 1.0)}
"""So many of a kind in so many seconds: beyond its places for them the service rightly answers 503."""
logger = logging.getLogger(__name__)
IDLE = re.compile(r"\(most recent call first\):\n  File \"[^\"]*api/edge\.py\", line \d+ in _work\n")
ALL_TOLD = re.compile(r"^Thread .*^Current thread .*?<module>\n", re.MULTILINE | re.DOTALL)


class Abuse:
    """What was sent, and what became of it."""

    def __init__(self, stack: Stack, running_job: str) -> None:
        self._port = stack.port
        self._job = running_job
        self._lock = Lock()
        self._recent: dict[str, list[float]] = {kind: [] for kind in SCARCE}
        self._stalled: list[tuple[Attack, socket.socket]] = []
        self.statuses: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()
        self.wrong: list[tuple[Attack, bytes]] = []

    def send_many(self, seed: int, count: int) -> None:
        random = Random(seed)
        for _ in range(count):
            drawn = attack(random, self._job)
            while not self._may(drawn):
                drawn = attack(random, self._job)
            self._send(drawn)

    def _may(self, drawn: Attack) -> bool:
        if drawn.kind not in SCARCE:
            return True
        most, seconds = SCARCE[drawn.kind]
        now = time.monotonic()
        with self._lock:
            recent = self._recent[drawn.kind] = [at for at in self._recent[drawn.kind] if at > now - seconds]
            if len(recent) == most:
                return False
            recent.append(now)
            return True

    def _send(self, sent: Attack) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        with suppress(ConnectionError):  # it may have been refused, and closed, before the last byte
            for piece in sent.pieces:
                connection.sendall(piece)
        if sent.then is Then.STALL:
            with self._lock:
                self._stalled.append((sent, connection))
            return
        with connection:
            self._note(sent, b"" if sent.then is Then.HANG_UP else answer(connection))

    def _note(self, sent: Attack, received: bytes) -> None:
        statuses = [int(status) for status in STATUS.findall(received)]
        with self._lock:
            self.kinds[sent.kind] += 1
            self.statuses.update(statuses or [0])
            if any(status >= 500 for status in statuses):
                self.wrong.append((sent, received))

    def outlast(self) -> None:
        """Wait until the service has had enough of every body that does not come; readers may stay, so they hang up."""
        for sent, connection in self._stalled:
            with connection:
                if sent.kind == "reader":
                    continue
                received = rest(connection)
                assert received.startswith(b"HTTP/1.1 408 "), (sent, received)
                self._note(sent, received)


def answer(connection: socket.socket) -> bytes:
    """What comes within a glance, and until the connection ends once we have said that nothing more will come."""
    connection.settimeout(GLANCE_S)
    received = b""
    with suppress(TimeoutError, ConnectionError):
        while data := connection.recv(65_536):
            received += data
            if complete(received):
                return received
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
    return received + rest(connection)


def rest(connection: socket.socket) -> bytes:
    """Up to the end of the connection. Fails if the service does not end it."""
    connection.settimeout(60)
    received = b""
    with suppress(ConnectionError):
        while data := connection.recv(65_536):
            received += data
    return received


def complete(received: bytes) -> bool:
    start, found, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", start)
    return bool(found) and length is not None and len(body) >= int(length[1])


def stay_well(stack: Stack, over: Event) -> int:
    """Be a good client all the while; how many good requests were answered well."""
    good = 0
    while not over.wait(0.1):
        with httpx.Client(base_url=stack.url, timeout=20) as client:
            client.get("/healthz").raise_for_status()
            job = client.post("/api/v1/jobs", json={"model": "echo", "input": {"good": good}}).raise_for_status().json()
            client.get(f"/api/v1/jobs/{job['id']}").raise_for_status()
        good += 1
    return good


def idle_threads(stack: Stack) -> int:
    """How many threads of the API wait for a request, as its processes say themselves."""
    idle = 0
    for process in [each for each in stack.find("-m api") if each.children() == []]:
        before = len(stack.said())
        process.send_signal(signal.SIGUSR1)
        told = until(partial(told_since, stack, before), "a process to tell of its threads")
        idle += len(IDLE.findall(told[0]))
    return idle


def told_since(stack: Stack, before: int) -> re.Match[str] | None:
    return ALL_TOLD.search(stack.said(), before)


@pytest.mark.timeout(900)
def test_bytes(tmp_path: Path) -> None:
    with running(tmp_path, KTQ_GRACE_SECONDS="2") as stack, ThreadPoolExecutor(CLIENTS + 1) as pool:
        settings = Settings()
        threads = settings.api_workers * settings.api_threads
        until(lambda: idle_threads(stack) == threads, "every thread to wait for a request")
        job = stack.submit("echo", {"n": 1}, params={"delay_ms": 600_000})["id"]
        abuse, over = Abuse(stack, job), Event()
        good = pool.submit(stay_well, stack, over)
        try:
            senders = [pool.submit(abuse.send_many, SEED + n, REQUESTS // CLIENTS) for n in range(CLIENTS)]
            for sender in senders:
                sender.result()
            abuse.outlast()
        finally:
            over.set()

        logger.info("%d requests: %s; answers: %s", abuse.kinds.total(), abuse.kinds, abuse.statuses)
        assert abuse.wrong == []
        assert good.result() > 10
        until(lambda: idle_threads(stack) == threads, "every thread to be free again")
        assert stack.http.post(f"/api/v1/jobs/{job}/cancel").status_code == 200
        assert stack.finished(stack.submit("echo", {"n": 2})["id"])["result"] == {"n": 2}
        assert "Traceback" not in stack.said()
