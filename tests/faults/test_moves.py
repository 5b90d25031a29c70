"""Models are moved between two workers of a real stack, under load: nothing is lost, and nobody is charged."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.stack import Stack, another_host, running, until

pytestmark = pytest.mark.timeout(300)

MODELS = """
[models.moved]
engine = "echo"
max_batch = 8

[models.stays]
engine = "echo"
"""
LEASE_S = 60
"""So long that nothing here comes back by its lease."""
GIVEN = {"KTQ_LEASE_SECONDS": str(LEASE_S), "KTQ_GRACE_SECONDS": "1", "KTQ_HEARTBEAT_SECONDS": "0.5"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("moves"), models=MODELS, KTQ_WORKER_NAME="here", **GIVEN) as started:
        yield started


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("away")


@pytest.fixture
def there(stack: Stack, away: Path) -> Iterator[subprocess.Popen[bytes]]:
    with another_host(stack, away, MODELS, "stays", KTQ_WORKER_NAME="there", **GIVEN) as process:
        # One that was there before may still be told of.
        until(lambda: set(rosters(stack)) == {"here", "there"} and lives(stack, "there"), "both workers")
        yield process


def move(stack: Stack, *arguments: str) -> None:
    command = [sys.executable, "-m", "ktqueue.cli", "lanes", "move", "moved", *arguments, "--url", stack.url]
    subprocess.run(command, check=True, timeout=60)


def begin(stack: Stack, worker: str) -> None:
    """Whatever was before: let this worker serve it, and nobody else."""
    other = {"here": "there", "there": "here"}[worker]
    move(stack, "--from", other, "--to", worker)
    until_served_by(stack, worker)


def rosters(stack: Stack) -> dict[str, list[str]]:
    return {each["worker"]: each["models"] for each in stack.http.get("/api/v1/rosters").json()["data"]}


def lives(stack: Stack, worker: str) -> bool:
    """Whether any slot of it does."""
    seen = stack.http.get("/api/v1/workers").json()["data"]
    return any(each["worker"] == worker and psutil.pid_exists(each["pid"]) for each in seen)


def lane(stack: Stack) -> dict[str, Any]:
    return dict(stack.http.get("/api/v1/lanes/moved").json())


def slots(stack: Stack) -> list[tuple[str, str]]:
    """Of the model that is moved: whose they are, and whether they are ready."""
    seen = [each for each in stack.http.get("/api/v1/workers").json()["data"] if each["model"] == "moved"]
    return [(each["worker"], each["state"]) for each in seen if psutil.pid_exists(each["pid"])]


def until_served_by(stack: Stack, worker: str) -> None:
    until(lambda: slots(stack) == [(worker, "ready")], f"the slot {worker}")
    assert lane(stack)["workers"] == [worker]


def outcomes(stack: Stack, job_id: str) -> list[tuple[str, bool]]:
    told = stack.http.get(f"/api/v1/jobs/{job_id}/attempts").json()["data"]
    return [(each["outcome"], each["charged"]) for each in told]


def load(stack: Stack, count: int, delay_ms: int) -> list[str]:
    return stack.bulk([{"model": "moved", "input": {"n": n}, "params": {"delay_ms": delay_ms}} for n in range(count)])


def assert_nobody_was_charged(stack: Stack, jobs: list[str]) -> None:
    for n, job_id in enumerate(jobs):
        done = stack.finished(job_id)
        assert (done["state"], done["result"], done["attempt"]) == ("succeeded", {"n": n}, 1)
        *before, last = outcomes(stack, job_id)
        assert set(before) <= {("given_back", False)}
        assert last == ("succeeded", True)


def test_a_move_under_load_loses_nothing_and_charges_nobody(stack: Stack, there: object) -> None:
    begin(stack, "here")
    short, long = load(stack, 60, 300), load(stack, 16, 2_500)
    for source, target in (("here", "there"), ("there", "here"), ("here", "there")):
        until(lambda: lane(stack)["running"], "jobs that run")
        move(stack, "--from", source, "--to", target)
        until_served_by(stack, target)

    assert_nobody_was_charged(stack, short)
    assert_nobody_was_charged(stack, long)
    assert not stack.find("lane moved")
    assert "moved" not in rosters(stack)["here"]


def test_what_no_worker_serves_waits_and_the_lane_says_so(stack: Stack, there: object) -> None:
    begin(stack, "there")
    move(stack, "--from", "there")
    until(lambda: lane(stack)["workers"] == [], "a lane that nobody serves")
    until(lambda: slots(stack) == [], "the end of its slot")
    waiting = load(stack, 5, 0)
    assert {stack.job(job_id)["state"] for job_id in waiting} == {"queued"}

    move(stack, "--to", "here")
    assert_nobody_was_charged(stack, waiting)
    assert rosters(stack) == {"here": ["moved", "stays"], "there": ["stays"]}


def test_orders_are_followed_though_their_messengers_were_killed(stack: Stack, there: subprocess.Popen[bytes]) -> None:
    begin(stack, "here")
    [keeper] = [each for each in psutil.Process(there.pid).children() if "worker.roster" in each.cmdline()]
    lanes = {process.pid for process in stack.find("lane")}
    for messenger in (keeper, *stack.find("worker light")):
        messenger.kill()

    move(stack, "--from", "here")
    until(lambda: lane(stack)["workers"] == [], "a lane that nobody serves")
    until(lambda: slots(stack) == [], "the end of its slot")
    move(stack, "--to", "there")
    until_served_by(stack, "there")
    assert {process.pid for process in stack.find("lane stays")} < lanes, "it was left alone"
    move(stack, "--from", "there", "--to", "here")
    assert_nobody_was_charged(stack, load(stack, 3, 0))


def test_an_order_during_a_rolling_restart_is_followed_after_it(stack: Stack, there: object) -> None:
    begin(stack, "here")
    jobs = load(stack, 40, 300)
    stack.signal(signal.SIGHUP)
    until(lambda: "a rolling restart begins" in stack.said(), "a rolling restart")
    move(stack, "--from", "here", "--to", "there")

    assert_nobody_was_charged(stack, jobs)
    until_served_by(stack, "there")
    until(lambda: "everything has been restarted" in stack.said(), "the end of the rolling restart")


def test_orders_outlive_the_worker(stack: Stack, away: Path) -> None:
    for _ in range(2):
        with another_host(stack, away, MODELS, "stays", KTQ_WORKER_NAME="there", **GIVEN):
            until(lambda: "there" in rosters(stack), "the other worker")
            if rosters(stack)["there"] == ["stays"]:
                move(stack, "--from", "here", "--to", "there")
            until_served_by(stack, "there")
    until(lambda: lane(stack)["workers"] == [], "its end")
