"""A load generator that is cheap enough to share two cores with what it measures.

One thread, raw sockets, the request made beforehand. Each connection sends it again once it has read the answer to
the last, so there are always as many under way as there are connections.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle

HOST = "127.0.0.1"
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it: answers by HTTP status, the last one, in how many seconds, and how many of those we computed."""

    statuses: Mapping[int, int]
    last: bytes
    seconds: float
    own_seconds: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return sum(self.statuses.values()) / self.seconds

    @property
    def own_share(self) -> float:
        """Percent of one core that went into generating the load."""
        return 100 * self.own_seconds / self.seconds


class Connection:
    """One kept-alive HTTP/1.1 connection with one request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((HOST, port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, request: bytes) -> None:
        """Begin a request."""
        self.socket.sendall(request)

    def receive(self) -> tuple[int, bytes] | None:
        """Read once: (status, body) if that completed the answer. Raises ConnectionError."""
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError("the server closed a connection")
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return None
        self._received = b""
        return int(head[9:12]), body

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send, and wait for the answer: (status, body)."""
        self.send(request)
        while (answer := self.receive()) is None:
            pass
        return answer

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def get(path: str) -> bytes:
    """A request as it goes over the wire."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: bytes, key: str | None = None) -> bytes:
    """The same of a POST with JSON, and an API key."""
    return request("POST", path, body, key)


def request(method: str, path: str, body: bytes, key: str | None = None) -> bytes:
    """A request with JSON as it goes over the wire."""
    headers = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    known = "" if key is None else f"Authorization: Bearer {key}\r\n"
    return f"{method} {path} HTTP/1.1\r\n{known}{headers}".encode() + body


def keep_busy(port: int, request: bytes | Sequence[bytes], *, requests: int, connections: int = 16) -> Load:
    """Send ``request`` that many times over that many connections; of several, each in its turn.

    Raises OSError if the server breaks off.
    """
    turns = cycle([request] if isinstance(request, bytes) else request)
    statuses: Counter[int] = Counter()
    last = b""
    unsent = requests
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        clients = [Connection(port) for _ in range(min(connections, requests))]
        for client in clients:
            stack.callback(client.close)
            selector.register(client.socket, selectors.EVENT_READ, client)
        began, own = time.perf_counter(), time.process_time()
        for client in clients:
            client.send(next(turns))
            unsent -= 1
        while statuses.total() < requests:
            ready = selector.select(TIMEOUT_S)
            if not ready:
                raise TimeoutError(f"no answer in {TIMEOUT_S:.0f} s")
            for key, _ in ready:
                answer = key.data.receive()
                if answer is not None:
                    status, last = answer
                    statuses[status] += 1
                    if unsent:
                        key.data.send(next(turns))
                        unsent -= 1
        return Load(statuses, last, time.perf_counter() - began, time.process_time() - own)


def _length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    if at < 0:
        raise ValueError("the load generator reads answers with a Content-Length only")
    return int(head[at + 15 :].partition(b"\r\n")[0])
