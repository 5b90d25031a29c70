"""A lane with two slots of its own places: one that is killed costs its batch, and is replaced where it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.support.stack import Stack, running, until

TWO_PLACES = """
[models.echo]
engine = "echo"
devices = ["cpu", "cpu"]
max_batch = 8
"""
LEASE_S = 60
"""So long that nothing here comes back by its lease."""
ROUNDS = 1


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    given = {"KTQ_LEASE_SECONDS": str(LEASE_S)}
    with running(tmp_path_factory.mktemp("places"), models=TWO_PLACES, **given) as started:
        yield started


def slots(stack: Stack) -> dict[int, int]:
    """The process in each slot."""
    return {each["slot"]: each["pid"] for each in stack.http.get("/api/v1/workers").json()["data"] if ready(each)}


def ready(worker: dict[str, Any]) -> bool:
    return worker["state"] == "ready" and bool(psutil.pid_exists(worker["pid"]))


def attempts(stack: Stack, job_id: str) -> list[dict[str, Any]]:
    return list(stack.http.get(f"/api/v1/jobs/{job_id}/attempts").json()["data"])


def running_attempt(stack: Stack, job_id: str) -> dict[str, Any]:
    return dict(until(lambda: attempts(stack, job_id), f"somebody who runs {job_id}")[-1])


def pid_of(attempt: dict[str, Any]) -> int:
    return int(attempt["worker"].rsplit(":", 3)[1])


@pytest.mark.parametrize("number", [0, 1] * ROUNDS)
def test_a_killed_slot_is_replaced_in_its_place_and_the_other_goes_on(stack: Stack, number: int) -> None:
    before = until(lambda: len(found := slots(stack)) == 2 and found, "both slots")
    jobs = stack.bulk([{"model": "echo", "input": {"n": n}, "params": {"delay_ms": 1_500}} for n in range(16)])
    held = {job: pid_of(running_attempt(stack, job)) for job in jobs}
    assert set(held.values()) == set(before.values()), "each slot took a batch"

    psutil.Process(before[number]).kill()
    for n, job in enumerate(jobs):
        done = stack.finished(job)
        assert (done["state"], done["result"], done["attempt"]) == ("succeeded", {"n": n}, 1)
        outcomes = [(each["outcome"], each["charged"]) for each in attempts(stack, job)]
        lost = [("crashed", False)] if held[job] == before[number] else []
        assert outcomes == [*lost, ("succeeded", True)]

    after = until(lambda: len(found := slots(stack)) == 2 and found, "a slot in place of the one that was killed")
    assert after[1 - number] == before[1 - number]
    assert after[number] not in before.values()
