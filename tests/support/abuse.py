"""Requests that no client should send: malformed, oversized, truncated and slow ones, drawn from a seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import Any, TypeAlias

MAX_BODY = 2_000_000
JSON = "application/json"
NDJSON = "application/x-ndjson"
GOOD = {"model": "echo", "input": {"say": "hi"}}
JOBS = "/api/v1/jobs"


class Then(Enum):
    """What the client does once it has sent what it has."""

    READ = auto()
    """Wait for the answer."""
    HANG_UP = auto()
    """Close the connection at once."""
    STALL = auto()
    """Send nothing more, and see how long it is borne."""


@dataclass(frozen=True, slots=True)
class Attack:
    """Bytes in pieces, and what comes after them. ``kind`` names what drew it."""

    kind: str
    pieces: list[bytes]
    then: Then = Then.READ


Draw: TypeAlias = Callable[[Random], Attack]


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """A well-formed request, unless its parts are not."""
    return head(method, path, f"Content-Length: {len(body)}", *headers) + body


def head(method: str, path: str, *headers: str) -> bytes:
    """Up to the empty line."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"


def post(body: bytes, *headers: str) -> bytes:
    """A submit."""
    return request("POST", JOBS, body, f"Content-Type: {JSON}", *headers)


def attack(random: Random, events_of: str) -> Attack:
    """Any of them. ``events_of`` is a job that runs, for readers of its events."""
    if random.random() < 0.01:
        return Attack("reader", [head("GET", f"{JOBS}/{events_of}/events")], random.choice([Then.HANG_UP, Then.STALL]))
    return random.choice(DRAWS)(random)


def request_line(random: Random) -> Attack:
    lines = [
        random.randbytes(random.randint(1, 300)),
        b"GET",
        b"GET /",
        b"GET / HTTP/9.9",
        b"get /healthz http/1.1",
        b"GET  /healthz  HTTP/1.1",
        b"GET /healthz HTTP/1.0",
        b"PRI * HTTP/2.0",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT localhost:80 HTTP/1.1",
        b"GET http://elsewhere/healthz HTTP/1.1",
        b"GET //healthz HTTP/1.1",
        b"GET /" + b"a" * random.choice([8_000, 100_000]) + b" HTTP/1.1",
        b"GET /%00%ff%zz HTTP/1.1",
        b"GET /\xff\xfe HTTP/1.1",
        b"BREW /healthz HTTP/1.1",
        b"G\0T /healthz HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ]
    return Attack("request line", [random.choice(lines) + b"\r\nHost: localhost\r\n\r\n"])


def headers(random: Random) -> Attack:
    bad = random.choice(
        [
            "no colon",
            ": no name",
            "Spa ced: 1",
            "Folded: 1\r\n 2",
            "Nul: \0",
            f"Long: {'x' * random.choice([10_000, 100_000])}",
            "Content-Length: -1",
            "Content-Length: +3",
            "Content-Length: 99999999999999999999999",
            "Content-Length: 1\r\nContent-Length: 2",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 3",
            "Host: a b\r\nHost: c",
            "Expect: the unexpected",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
            f"Idempotency-Key: {random.choice(['', 'a b', 'é', 'k' * 300])}",
            f"Prefer: {random.choice(['wait=x', 'wait=99999999999', ';;;,=', 'wait'])}",
            f"Last-Event-ID: {random.choice(['', 'x', '1-1-1', '9' * 400])}",
            "If-None-Match: W/\"\", *, ''",
            "\r\n".join(f"X-{number}: {number}" for number in range(random.choice([90, 2_000]))),
        ]
    )
    method, path = random.choice([("POST", JOBS), ("GET", "/healthz"), ("GET", JOBS), ("POST", f"{JOBS}:bulk")])
    return Attack("headers", [head(method, path, f"Content-Type: {JSON}", bad) + json.dumps(GOOD).encode()])


def chunks(random: Random) -> Attack:
    good = json.dumps(GOOD).encode()
    bodies = [
        b"zz\r\n" + good,
        b"%x\r\n" % len(good) + good + b"0\r\n\r\n",
        b"%x\r\n" % (len(good) + 50) + good + b"\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\n" + good,
        b"-1\r\n\r\n",
        b"%x;%b\r\n" % (len(good), b"e" * 20_000) + good + b"\r\n0\r\n\r\n",
        b"%x\r\n" % len(good) + good + b"\r\n0\r\nTrailer: 1\r\n\r\n",
        b"%x\r\n" % len(good) + good + b"\r\n",
        b"1\r\n \r\n" * 3_000 + b"0\r\n\r\n",
        b"%x\r\n" % (MAX_BODY + 1) + b" " * (MAX_BODY + 1) + b"\r\n0\r\n\r\n",
    ]
    path, media = random.choice([(JOBS, JSON), (f"{JOBS}:bulk", NDJSON)])
    start = head("POST", path, f"Content-Type: {media}", "Transfer-Encoding: chunked")
    return Attack("chunks", [start, random.choice(bodies)])


def lengths(random: Random) -> Attack:
    body = json.dumps(GOOD).encode()
    said = random.choice([0, 1, len(body) - 1, len(body) + 1, len(body) + 70_000, MAX_BODY + 1, 10**15])
    start = head("POST", JOBS, f"Content-Type: {JSON}", f"Content-Length: {said}")
    return Attack("lengths", [start + body], random.choice([Then.READ, Then.READ, Then.HANG_UP]))


def documents(random: Random) -> Attack:
    deep = random.choice([60, 65, 5_000, 100_000])
    body = random.choice(
        [
            b"",
            b"\xff\xfe" + random.randbytes(50),
            b'{"model": "echo", "input": {"x": NaN}}',
            b'{"model": "echo", "input": {"x": 1e999}}',
            b'{"model": "echo", "input": {"x": %b}}' % (b"9" * 5_000),
            b'{"model": "echo", "input": {"x": "\\ud800"}}',
            b'{"model": "echo", "input": {"\\u0000": "\\u0000"}}',
            b'{"model": "echo", "input": ' + b'{"a":' * deep + b"1" + b"}" * (deep + 1),
            b"[" * deep,
            b'{"model": "echo", "input": {"x": "%b"}}' % (b"x" * random.choice([1_000_000, MAX_BODY, MAX_BODY * 2])),
            b'{"model": "echo", "model": 1, "input": {}}',
            json.dumps(anything(random)).encode(),
            json.dumps(GOOD | {field(random): anything(random)}).encode(),
            json.dumps(GOOD | {field(random): anything(random), field(random): anything(random)}).encode(),
        ]
    )
    return Attack("documents", [post(body)])


def lines(random: Random) -> Attack:
    some = [json.dumps(GOOD), "", "{", "null", "\xff", "[" * 500, "x" * (MAX_BODY + 1), json.dumps({"model": "nobody"})]
    body = "\n".join(random.choices(some, [9, 2, 2, 2, 2, 2, 0.2, 2], k=random.randint(0, 40))).encode("latin-1")
    return Attack("lines", [request("POST", f"{JOBS}:bulk", body, f"Content-Type: {NDJSON}")])


def paths(random: Random) -> Attack:
    tail = "".join(random.choices("abf0/%?&=.:;#~_-+", k=random.randint(0, 60)))
    start = random.choice(
        ["/", JOBS, f"{JOBS}/", f"{JOBS}/job_{random.randbytes(16).hex()}", "/docs/", "/api/v1/lanes"]
    )
    asked = random.choice(
        ["", "?wait=1", "?limit=0", "?cursor=AAAA", "?state=%00", "?wait=9&wait=1", "?created_from=x"]
    )
    method = random.choice(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
    return Attack("paths", [request(method, start + random.choice([tail, ""]) + asked)])


def mutated(random: Random) -> Attack:
    """A good request with some bytes changed, lost or doubled."""
    data = bytearray(post(json.dumps(GOOD).encode(), "Idempotency-Key: k", "Prefer: wait=1"))
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data))
        data[at : at + 1] = random.choice([random.randbytes(1), b"", data[at : at + 1] * 2, b"\r\n"])
    return Attack("mutated", [bytes(data)])


def truncated(random: Random) -> Attack:
    data = post(json.dumps(GOOD | {"input": {"x": "x" * random.choice([0, 100_000])}}).encode())
    return Attack("truncated", [data[: random.randrange(1, len(data))]], random.choice([Then.READ, Then.HANG_UP]))


def in_pieces(random: Random) -> Attack:
    """A good request, but a few bytes at a time."""
    data = post(json.dumps(GOOD).encode())
    cuts = sorted(random.sample(range(1, len(data)), random.randint(2, 8)))
    return Attack("in pieces", [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)])


def gone_while_waiting(random: Random) -> Attack:
    body = json.dumps(GOOD | {"params": {"delay_ms": random.choice([0, 500])}}).encode()
    return Attack("gone while waiting", [post(body, "Prefer: wait=5")], Then.HANG_UP)


def stalled(random: Random) -> Attack:
    """A body that is promised and does not come."""
    said = random.choice([2, 1_000, 1_000_000])
    sent = random.choice([0, 1, said // 2])
    start = head("POST", JOBS, f"Content-Type: {JSON}", f"Content-Length: {said}")
    return Attack("stalled", [start + b" " * sent], Then.STALL)


DRAWS: list[Draw] = [
    *[request_line, headers, chunks, lengths, documents, documents, lines, paths, mutated, truncated, in_pieces],
    gone_while_waiting,
    stalled,
]


def field(random: Random) -> str:
    """A field of a submit, or none."""
    known = ["model", "task", "input", "params", "priority", "max_attempts", "metadata", "deadline_seconds", "run_at"]
    return random.choice([*known, "unknown", "\0", ""])


def anything(random: Random, depth: int = 3) -> Any:
    """A JSON value."""
    leaves: list[Any] = [None, True, 0, -1, 2**63, 1e300, "", "é\0", "x" * 200, [], {}]
    kind = random.random()
    if depth == 0 or kind < 0.6:
        return random.choice(leaves)
    if kind < 0.8:
        return [anything(random, depth - 1) for _ in range(random.randint(0, 4))]
    return {field(random): anything(random, depth - 1) for _ in range(random.randint(0, 4))}
