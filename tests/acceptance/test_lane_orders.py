"""What operators order of lanes, followed by every process of a real stack, through the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.support.stack import Stack, running, until

TWO_SLOTS = """
[models.echo]
engine = "echo"
max_batch = 8
slots = 2
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("orders"), models=TWO_SLOTS) as started:
        yield started


def order(stack: Stack, *arguments: str) -> str:
    """Run ``ktqueue lanes …``; what it printed."""
    command = [sys.executable, "-m", "ktqueue.cli", "lanes", *arguments, "--url", stack.url]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def lane(stack: Stack) -> dict[str, Any]:
    return dict(stack.http.get("/api/v1/lanes/echo").json())


def refused(stack: Stack) -> bool:
    answer = stack.http.post("/api/v1/jobs", json={"model": "echo", "input": {}})
    if answer.status_code == 202:
        return False
    assert (answer.status_code, answer.json()["code"]) == (503, "lane_draining"), answer.text
    return True


def accepted(stack: Stack) -> bool:
    return not refused(stack)


def holds_back(stack: Stack) -> bool:
    """Whether every slot has seen that the lane is paused: jobs for both stay where they are."""
    before = lane(stack)["depth"]
    jobs = stack.bulk([{"model": "echo", "input": {}} for _ in range(16)])
    return bool(lane(stack)["depth"] == before + len(jobs) and not lane(stack)["running"])


def test_a_lane_is_paused_purged_drained_and_resumed(stack: Stack) -> None:
    until(lambda: stack.finished(stack.submit("echo", {"n": 0})["id"]), "a lane that runs")

    assert "paused" in order(stack, "pause", "echo")
    until(lambda: holds_back(stack), "a lane that keeps what it takes")
    kept = lane(stack)["depth"]
    assert kept >= 16
    assert f"{kept} would be cancelled" in order(stack, "purge", "echo", "--dry-run")
    assert f"{kept} cancelled, 0 left" in order(stack, "purge", "echo", "--yes")
    assert lane(stack)["depth"] == 0
    waiting = stack.submit("echo", {"n": 1})
    assert stack.job(waiting["id"])["state"] == "queued"

    assert "draining" in order(stack, "drain", "echo")
    assert stack.finished(waiting["id"])["result"] == {"n": 1}
    until(lambda: refused(stack), "a lane that takes nothing")

    assert "open" in order(stack, "resume", "echo")
    until(lambda: accepted(stack), "a lane that takes jobs again")


def workers(stack: Stack) -> dict[str, dict[str, Any]]:
    data = stack.http.get("/api/v1/workers").json()["data"]
    return {each["name"]: each for each in data if each["state"] == "ready"}


def test_slots_are_seen_and_one_that_is_killed_is_not(stack: Stack) -> None:
    until(lambda: len(workers(stack)) == 2, "both slots")
    first, second = workers(stack).values()
    assert {first["model"], second["model"]} == {"echo"}
    assert (first["device"], first["capacity"]["jobs"], first["running"]) == ("cpu", 8, 0)

    psutil.Process(first["pid"]).kill()
    until(lambda: first["name"] not in workers(stack), "the end of the slot that was killed")
    until(lambda: len(workers(stack)) == 2, "the one in its place")
    assert second["name"] in workers(stack)


def test_no_more_run_at_once_than_was_ordered_over_all_slots(stack: Stack) -> None:
    assert "at most 3 at once" in order(stack, "set", "echo", "--concurrency", "3")
    until(lambda: not lane(stack)["depth"], "an empty lane")
    order(stack, "pause", "echo")
    until(lambda: holds_back(stack), "a lane that keeps what it takes")
    jobs = stack.bulk([{"model": "echo", "input": {}, "params": {"delay_ms": 40}} for _ in range(60)])
    order(stack, "resume", "echo")
    seen: list[int] = []

    def all_ended() -> bool:
        seen.append(lane(stack)["running"])
        # What is pulled and not claimed yet is nowhere but here.
        return not stack.http.get("/api/v1/jobs?state=queued&state=running&limit=1").json()["data"]

    until(all_ended, "the end of all jobs")
    assert 1 <= max(seen) <= 3
    assert all(stack.job(job)["state"] == "succeeded" for job in jobs)
    assert "at most" not in order(stack, "set", "echo", "--no-concurrency")
