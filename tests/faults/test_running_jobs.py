"""A limit on what runs at once, over two lanes of real workers: one is killed, and Redis is emptied."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from typing import Any

import psutil
import pytest

from ktqueue.keys import KeyRequest, Keys
from ktqueue.migrate import upgrade
from ktqueue.redis_client import connect
from ktqueue.registry.sql import SqlRegistry
from ktqueue.settings import Settings
from ktqueue.tenant import ALL_SCOPES
from ktqueue.watched import FRESH_S
from tests.support.stack import Stack, running, until

TWO_LANES = """
[models.one]
engine = "echo"
max_batch = 8

[models.two]
engine = "echo"
max_batch = 8
"""
MOST = 3
Span = tuple[datetime, datetime]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One that asks for keys, for there is one: an operator's."""
    folder = tmp_path_factory.mktemp("limits")
    url = Settings(home=folder / "home").sql_url
    (folder / "home").mkdir()
    upgrade(url)
    with closing(SqlRegistry(url)) as registry:
        _, operator = Keys(registry).create(KeyRequest("default", "", ALL_SCOPES))
    with running(folder, models=TWO_LANES) as started:
        started.http.headers["Authorization"] = f"Bearer {operator}"
        yield started


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def attempts(stack: Stack, job_id: str) -> list[dict[str, Any]]:
    return list(stack.http.get(f"/api/v1/jobs/{job_id}/attempts").json()["data"])


def most_at_once(spans: list[Span]) -> int:
    """One that ends as another starts is not beside it."""
    changes = sorted([(end, -1) for _, end in spans] + [(start, 1) for start, _ in spans])
    return max(itertools.accumulate(change for _, change in changes))


def test_no_more_run_than_may_though_a_worker_is_killed_and_redis_emptied(stack: Stack) -> None:
    stack.http.put("/api/v1/tenants/default", json={"running_jobs": MOST}).raise_for_status()
    time.sleep(FRESH_S)  # as long as workers may go by what they read before
    jobs = stack.bulk(
        [{"model": ("one", "two")[n % 2], "input": {"n": n}, "params": {"delay_ms": 300}} for n in range(24)]
    )
    (first, *_) = until(lambda: [each for job in jobs for each in attempts(stack, job)], "a start")
    psutil.Process(int(first["worker"].rsplit(":", 3)[1])).kill()
    until(lambda: sum(stack.job(job)["state"] == "succeeded" for job in jobs) >= 6, "some to end")
    with connect(f"unix://{stack.home}/redis.sock") as client:
        client.flushall()

    assert {stack.finished(job)["state"] for job in jobs} == {"succeeded"}
    told = [each for job in jobs for each in attempts(stack, job)]
    assert len(told) > len(jobs), "the kill cost an attempt"
    spans = [(instant(each["started_at"]), instant(each["ended_at"])) for each in told]
    assert most_at_once(spans) == MOST


def test_no_more_run_of_a_key_than_may_and_others_of_its_tenant_go_first(stack: Stack) -> None:
    bounded, other = (
        stack.http.post("/api/v1/keys", json={"tenant": "acme", "running_jobs": most}).json()
        for most in (MOST - 1, None)
    )
    time.sleep(FRESH_S)  # as long as workers may go by what they read before

    def submitted(key: dict[str, Any], count: int, delay_ms: int) -> list[str]:
        stack.http.headers["Authorization"] = f"Bearer {key['key']}"
        work = [{"model": ("one", "two")[n % 2], "input": {}, "params": {"delay_ms": delay_ms}} for n in range(count)]
        return stack.bulk(work)

    mine, theirs = submitted(bounded, 12, 300), submitted(other, 6, 1)
    until(lambda: all(attempts(stack, job) for job in theirs), "the others to start")
    with connect(f"unix://{stack.home}/redis.sock") as client:
        client.flushall()
    assert {stack.finished(job)["state"] for job in [*mine, *theirs]} == {"succeeded"}
    spans, passing = (
        [(instant(each["started_at"]), instant(each["ended_at"])) for job in jobs for each in attempts(stack, job)]
        for jobs in (mine, theirs)
    )
    assert most_at_once(spans) == MOST - 1
    assert max(start for start, _ in passing) < max(start for start, _ in spans)
