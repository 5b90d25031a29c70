"""Killed at every commit and every send in the way of one job: whoever dies, and wherever, the job comes to its end."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.measured import Measured
from tests.support.stack import ECHO_ONLY, Stack, alive, running, until

pytestmark = pytest.mark.timeout(240)

CALLS = [
    "store.add_once",
    "lanes.add",
    "bell",
    "lanes.answer",
    "lanes.pull",
    "store.claim",
    "events.publish",
    "store.renew",
    "store.finish",
    "lanes.count_finished",
]
POINTS = [f"{call}.{moment}" for call in CALLS for moment in ("before", "after")]
ENQUEUED_BAR_S = 2.0
"""From the commit of a job whose API process died before it enqueued it, until it runs."""
LONG_AGO_MS = 31 * 86_400_000
ORPHANS = """
    SELECT job_id FROM idempotency_keys WHERE job_id NOT IN (SELECT id FROM jobs)
    UNION ALL SELECT job_id FROM attempts WHERE job_id NOT IN (SELECT id FROM jobs)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where failpoints are armed."""
    return tmp_path_factory.mktemp("failpoints")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Stack]:
    given = {"KTQ_FAILPOINTS": str(folder), "KTQ_HEARTBEAT_SECONDS": "0.2"}
    with running(tmp_path_factory.mktemp("stack"), models=ECHO_ONLY, **given) as started:
        yield started


def submitted(stack: Stack, key: str) -> str | None:
    """The id of the one job of ``key``; None if nobody answered, and so nothing is known."""
    job = {"model": "echo", "input": {"key": key}, "params": {"delay_ms": 400}}
    try:
        answer = stack.http.post("/api/v1/jobs", json=job, headers={"Idempotency-Key": key})
    except httpx.TransportError:
        return None
    return str(answer.json()["id"]) if answer.status_code == 202 else None


def ended(stack: Stack, job_id: str) -> dict[str, Any] | None:
    try:
        job: dict[str, Any] = stack.http.get(f"/api/v1/jobs/{job_id}", params={"wait": "5"}).json()
    except httpx.TransportError:
        return None
    return job if job.get("state") in {"succeeded", "failed", "cancelled", "expired"} else None


def told(stack: Stack, job_id: str) -> list[tuple[str, str]]:
    """The ids and states of a job's events."""
    events = []
    with stack.http.stream("GET", f"/api/v1/jobs/{job_id}/events") as answer:
        event_id = ""
        for line in answer.iter_lines():
            if line.startswith("id:"):
                event_id = line[3:].strip()
            elif line.startswith("data:"):
                events.append((event_id, json.loads(line[5:]).get("state", "")))
    return events


@pytest.mark.parametrize("point", POINTS)
def test_a_process_that_is_killed_there_costs_nothing_that_was_promised(
    stack: Stack, folder: Path, measured: Measured, point: str
) -> None:
    armed = folder / point
    armed.touch()
    job_id = until(lambda: submitted(stack, point), f"an answer to the submit that meets {point}")
    until(lambda: not armed.exists(), f"a process that is killed at {point}; the log:\n{stack.said()[-2000:]}")
    job = until(lambda: ended(stack, job_id), f"the end of the job that met {point}; the log:\n{stack.said()[-2000:]}")

    assert (job["state"], job["result"]) == ("succeeded", {"key": point})
    assert submitted(stack, point) == job_id
    attempts = stack.http.get(f"/api/v1/jobs/{job_id}/attempts").json()["data"]
    assert [each["claim"] for each in attempts] == list(range(1, len(attempts) + 1))
    assert len(attempts) <= 2
    states = [state for _, state in told(stack, job_id)]
    assert states == ["queued", *["running", "queued"] * (len(attempts) - 1), "running", "succeeded"]
    assert ended(stack, job_id) == job
    if point == "lanes.add.before":
        waited = datetime.fromisoformat(job["started_at"]) - datetime.fromisoformat(job["created_at"])
        measured("a submit died before it enqueued: the job starts", waited.total_seconds(), bar_s=ENQUEUED_BAR_S)


def test_a_process_that_is_killed_while_it_prunes_leaves_nothing_half_deleted(stack: Stack, folder: Path) -> None:
    (folder / "store.claim.after").touch()  # for an attempt that is to be pruned too
    old = until(lambda: submitted(stack, "old"), "an answer")
    young = until(lambda: submitted(stack, "young"), "an answer")
    assert {stack.finished(job_id)["state"] for job_id in (old, young)} == {"succeeded"}
    points = [folder / f"store.prune.{moment}" for moment in ("before", "after")]
    with closing(sqlite3.connect(stack.home / "ktqueue.db", timeout=30, isolation_level=None)) as database:

        def kept() -> list[str]:
            assert database.execute(ORPHANS).fetchall() == []
            return [job_id for (job_id,) in database.execute("SELECT id FROM jobs")]

        assert database.execute("SELECT count(*) FROM attempts").fetchone()[0] > 0
        database.execute(
            "UPDATE jobs SET created_at = created_at - ?1, finished_at = finished_at - ?1 WHERE id <> ?2",
            (LONG_AGO_MS, young),
        )
        for point in points:
            point.touch()
        # A walk begins at once in the next process, else a minute after the last.
        lights = until(lambda: [each for each in stack.find("-m worker light") if alive(each)], "a light worker")
        lights[-1].kill()
        until(lambda: kept() == [young], "the end of all that is old")
        # A process that is to die after it pruned takes its point away once it has.
        until(lambda: not any(point.exists() for point in points), "two deaths")
        assert database.execute("SELECT key FROM idempotency_keys").fetchall() == [("young",)]
        assert database.execute("SELECT count(*) FROM attempts WHERE job_id <> ?", (young,)).fetchone() == (0,)
