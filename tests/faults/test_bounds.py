"""Invariant 11 on a real stack: clients submit as fast as they can against a full queue, and nothing grows.

``KTQ_TEST_FLOOD_S`` makes the flood longer, for whoever has the time.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from ktqueue.admission import LONGEST_RETRY_AFTER_S
from ktqueue.embedded import socket_path
from tests.support.load import every_job_succeeds, load
from tests.support.stack import Stack, alive, running, until

logger = logging.getLogger(__name__)

FLOOD_S = float(os.environ.get("KTQ_TEST_FLOOD_S", "3"))
CLIENTS = 8
BOUND = 500
MARGIN = 200
"""What two API processes may admit beyond a bound between two readings."""
GROWTH_MB = 16.0
MODELS = """
[models.echo]
engine = "echo"
max_batch = 100
faults = true
"""
ROLES = ("-m api", "-m worker lane", "-m worker light", "-m worker beat", "valkey-server", "ktqueue.cli up")
A_SECOND = {"delay_ms": 1_000}
WITHOUT_TTL = re.compile(
    r"(?P<lane>ktq:(waits|queue|due|turns|paid|fair):.*)|(?P<bells>lane\..*)|(?P<sweeps>light)|(?P<bindings>_kombu\.binding.*)"
)
"""Keys that may have no time to live, each of them with a bound on its bytes."""
MOST = {"lane": (BOUND + MARGIN) * 200, "bells": 3_000, "sweeps": 3_000, "bindings": 1_000}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("bounds"), models=MODELS, KTQ_MAX_QUEUED=str(BOUND)) as stack:
        yield stack


@pytest.fixture
def broker(stack: Stack) -> Iterator[redis.Redis]:
    with redis.Redis(unix_socket_path=str(socket_path(stack.home)), decode_responses=True) as client:
        yield client


def megabytes(stack: Stack) -> dict[int, tuple[str, float]]:
    """By process what it is and what it has for itself alone."""
    found = {each.pid: (role, each) for role in ROLES for each in stack.find(role) if alive(each)}
    return {pid: (role, each.memory_full_info().uss / 1e6) for pid, (role, each) in found.items()}


def fill(stack: Stack, lines: int) -> tuple[int, list[dict[str, str]]]:
    """Submit so many in one request: how many were accepted, and why the others were not."""
    line = json.dumps({"model": "echo", "input": {"filled": True}, "params": A_SECOND}) + "\n"
    answer = stack.http.post(
        "/api/v1/jobs:bulk", content=line * lines, headers={"Content-Type": "application/x-ndjson"}
    )
    assert answer.status_code == 200, answer.text
    outcomes = [json.loads(each) for each in answer.text.splitlines()]
    return sum("id" in each for each in outcomes), [each["error"] for each in outcomes if "error" in each]


def unbounded(broker: redis.Redis) -> dict[str, int]:
    """Keys that never expire and are larger than they should be, with their bytes."""
    found = {}
    for key in broker.scan_iter(count=1000):
        if broker.ttl(key) != -1:
            continue
        kind = WITHOUT_TTL.fullmatch(key)
        size = broker.memory_usage(key, samples=0) or 0
        if kind is None or size > MOST[kind.lastgroup or ""]:
            found[key] = size
    return found


def states(stack: Stack) -> dict[str, int]:
    with closing(sqlite3.connect(stack.home / "ktqueue.db", timeout=30)) as database:
        return dict(database.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())


def test_a_flood_meets_a_bound_and_leaves_no_trace(stack: Stack, broker: redis.Redis) -> None:
    filled, refused = fill(stack, BOUND + 1_000)
    assert 0 < filled <= BOUND + MARGIN + 256
    assert {error["code"] for error in refused} == {"queue_full"}

    queued = []
    with load(stack, clients=CLIENTS, pause_s=0, params=A_SECOND) as seen:
        seen.wait(accepted=100, refused=100)
        before = megabytes(stack)
        until_s = time.monotonic() + FLOOD_S
        while time.monotonic() < until_s:
            queued.append(broker.hlen("ktq:waits:echo"))
            assert unbounded(broker) == {}
            time.sleep(0.1)
        after = megabytes(stack)

    assert {answer.status for answer in seen.answers} == {202, 429}
    assert all(1 <= int(answer.retry_after or 0) <= LONGEST_RETRY_AFTER_S for answer in seen.refused())
    assert BOUND / 2 < max(queued) <= BOUND + MARGIN
    grown = {f"{role} {pid}": after[pid][1] - mb for pid, (role, mb) in before.items()}
    logger.info("%d submits, %d refused; grown by, MB: %s", len(seen.answers), len(seen.refused()), grown)
    assert before.keys() == after.keys()
    assert max(grown.values()) < GROWTH_MB, grown

    every_job_succeeds(stack, seen.accepted)
    until(lambda: states(stack) == {"succeeded": filled + len(seen.accepted)}, "the end of every job")
    assert unbounded(broker) == {}
    until(lambda: not broker.keys("ktq:events:*"), "events of jobs that ended to expire")
