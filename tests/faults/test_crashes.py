"""Processes that die, hang and freeze under a real stack: who pays for it, and how soon all goes on."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, TypeAlias

import psutil
import pytest

from tests.support.measured import Measured
from tests.support.stack import Stack, alive, running, until

pytestmark = pytest.mark.timeout(240)

LANES = """
[models.echo]
engine = "echo"
max_batch = 64
faults = true

[models.memory]
engine = "echo"
max_batch = 64
faults = true

[models.hang]
engine = "echo"
max_batch = 64
faults = true
"""
PAIR = """
[models.pair]
engine = "echo"
slots = 2
faults = true
"""
BATCH = 64
GRACE_S = 3
LEASE_S = 60
"""So long that nothing here comes back by its lease."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    given = {"KTQ_LEASE_SECONDS": str(LEASE_S), "KTQ_STEP_SECONDS": "1", "KTQ_GRACE_SECONDS": str(GRACE_S)}
    with running(tmp_path_factory.mktemp("crashes"), models=LANES, **given) as started:
        yield started


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One with short leases, whose workers are frozen past them."""
    given = {"KTQ_LEASE_SECONDS": "2", "KTQ_HEARTBEAT_SECONDS": "0.5"}
    with running(tmp_path_factory.mktemp("forgetful"), models=PAIR, **given) as started:
        yield started


def attempts(stack: Stack, job_id: str) -> list[dict[str, Any]]:
    answer = stack.http.get(f"/api/v1/jobs/{job_id}/attempts")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"])


def outcomes(stack: Stack, job_id: str) -> list[tuple[str, bool]]:
    return [(each["outcome"], each["charged"]) for each in attempts(stack, job_id)]


Batch: TypeAlias = tuple[list[str], str]
"""Jobs that are in an engine together: the good ones, and the one that is not."""


def a_batch(stack: Stack, lane: str, count: int, fail: str, **fields: Any) -> Batch:
    good = [{"model": lane, "input": {"n": n}, "params": {"delay_ms": 200}} for n in range(count - 1)]
    ids = stack.bulk([*good, {"model": lane, "input": {}, "params": {"delay_ms": 100, "fail": fail}, **fields}])
    return ids[:-1], ids[-1]


@pytest.fixture(scope="module")
def batches(stack: Stack) -> dict[str, Batch]:
    """By what goes wrong in it. A dozen processes of each lane die one after the other, those of all lanes at once."""
    return {
        "crash": a_batch(stack, "echo", BATCH, "crash"),
        "memory": a_batch(stack, "memory", BATCH, "memory"),
        "hang": a_batch(stack, "hang", 4, "hang", max_attempts=1),
    }


@pytest.mark.parametrize("fail", ["crash", "memory"])
def test_one_poison_job_among_63_good_ones_fails_alone(stack: Stack, batches: dict[str, Batch], fail: str) -> None:
    good, poison = batches[fail]

    done = [stack.finished(job_id) for job_id in good]
    assert {job["state"] for job in done} == {"succeeded"}
    assert [job["result"] for job in done] == [{"n": n} for n in range(BATCH - 1)]
    assert {job["attempt"] for job in done} == {1}
    culprit = stack.finished(poison)
    assert (culprit["state"], culprit["error"]["code"], culprit["attempt"]) == ("failed", "engine_crashed", 3)
    assert [outcome for outcome in outcomes(stack, poison) if outcome[1]] == [("crashed", True)] * 3


def test_a_step_that_hangs_is_ended_and_its_batch_mates_succeed(stack: Stack, batches: dict[str, Batch]) -> None:
    good, hanging = batches["hang"]

    assert {stack.finished(job_id)["state"] for job_id in good} == {"succeeded"}
    assert stack.finished(hanging)["error"]["code"] == "engine_crashed"


def holding(stack: Stack, job_id: str) -> psutil.Process:
    """The process that runs a job."""
    last = until(lambda: [each for each in attempts(stack, job_id) if each["outcome"] == "running"], "a running job")
    return psutil.Process(int(last[-1]["worker"].rsplit(":", 3)[1]))


def frozen_with(stack: Stack, model: str, delay_ms: int) -> tuple[str, psutil.Process]:
    """A job that runs, and its process, stopped in the middle of it: whoever looked too late tries another job."""

    def caught() -> tuple[str, psutil.Process] | None:
        job_id = stack.submit(model, {"n": 1}, params={"delay_ms": delay_ms})["id"]
        last = until(lambda: attempts(stack, job_id), "an attempt")[-1]
        process = psutil.Process(int(last["worker"].rsplit(":", 3)[1]))
        process.suspend()
        if attempts(stack, job_id)[-1]["outcome"] == "running" and writable(stack):
            return job_id, process
        process.resume()
        stack.finished(job_id)
        return None

    found: tuple[str, psutil.Process] = until(caught, "a process that is stopped in the middle of a job")
    return found


def writable(stack: Stack) -> bool:
    """Whether nobody is stopped in the middle of a write: that would lock all others out."""
    with closing(sqlite3.connect(stack.home / "ktqueue.db", isolation_level=None, timeout=2)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        database.execute("ROLLBACK")
        return True


@pytest.mark.parametrize("victim", ["child", "parent"])
def test_what_a_killed_worker_held_goes_on_long_before_its_lease(stack: Stack, victim: str) -> None:
    job_id, child = frozen_with(stack, "echo", 2_000)
    killed = child if victim == "child" else child.parent()
    assert killed is not None
    killed.kill()

    done = stack.finished(job_id)
    assert (done["state"], done["attempt"], done["result"]) == ("succeeded", 1, {"n": 1})
    first, second = attempts(stack, job_id)
    assert (first["outcome"], first["charged"], first["error"]["code"]) == ("crashed", False, "engine_crashed")
    assert second["outcome"] == "succeeded"
    assert first["worker"] != second["worker"]


def test_what_fits_the_grace_is_run_once_though_its_worker_was_told_to_stop(stack: Stack) -> None:
    jobs = stack.bulk([{"model": "echo", "input": {"n": n}, "params": {"delay_ms": 1_000}} for n in range(BATCH)])
    parent = holding(stack, jobs[-1]).parent()
    assert parent is not None
    parent.send_signal(signal.SIGTERM)
    until(lambda: not alive(parent), "the end of a worker that was told to stop")

    for job_id in jobs:
        assert stack.finished(job_id)["state"] == "succeeded"
        assert outcomes(stack, job_id) == [("succeeded", True)]


def test_what_does_not_fit_the_grace_is_given_back_uncharged(stack: Stack) -> None:
    job = stack.submit("echo", {"n": 1}, params={"delay_ms": 10_000})
    parent = holding(stack, job["id"]).parent()
    assert parent is not None
    parent.send_signal(signal.SIGTERM)
    until(lambda: not alive(parent), "the end of a worker that was told to stop")

    assert stack.finished(job["id"])["attempt"] == 1
    assert outcomes(stack, job["id"]) == [("given_back", False), ("succeeded", True)]


def test_a_worker_whose_child_is_frozen_ends_in_time_all_the_same(stack: Stack, measured: Measured) -> None:
    job_id, child = frozen_with(stack, "echo", 1_000)
    parent = child.parent()
    assert parent is not None
    told = time.monotonic()
    parent.send_signal(signal.SIGTERM)
    until(lambda: not alive(parent), "the end of a worker whose child is frozen")
    measured("a child was frozen: its worker ends", time.monotonic() - told, bar_s=GRACE_S + 2)

    until(lambda: not alive(child), "the end of the frozen child")
    assert stack.finished(job_id)["attempt"] == 1
    assert outcomes(stack, job_id) == [("crashed", False), ("succeeded", True)]


def test_a_worker_that_was_frozen_past_its_lease_changes_nothing(forgetful: Stack) -> None:
    job_id, frozen = frozen_with(forgetful, "pair", 1_000)
    try:
        done = forgetful.finished(job_id)
        assert (done["state"], done["attempt"]) == ("succeeded", 1)
    finally:
        frozen.resume()
    # It looks around before it writes anything else: what it does then has come after its stale write.
    others = [forgetful.submit("pair", {"n": n})["id"] for n in range(10)]
    assert {forgetful.finished(job_id)["state"] for job_id in others} == {"succeeded"}
    until(lambda: frozen.status() == psutil.STATUS_SLEEPING, "a thawed process that is at rest")
    again = forgetful.job(job_id)
    assert {key: again[key] for key in ("state", "attempt", "result", "finished_at")} == {
        key: done[key] for key in ("state", "attempt", "result", "finished_at")
    }
    assert outcomes(forgetful, job_id) == [("lease_lost", False), ("succeeded", True)]
