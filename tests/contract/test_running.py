"""Workers of several lanes side by side, over every store and both lanes: never more run than may, and all do.

The limits of keys are not known yet when the jobs come, so many lie in the wrong queue until they are pulled.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest

from ktqueue.controls.memory import MemoryControls
from ktqueue.controls.watched import WatchedControls
from ktqueue.events.memory import MemoryEvents
from ktqueue.execution import Execution
from ktqueue.job import Job, JobState
from ktqueue.lanes.base import Lanes
from ktqueue.lanes.memory import MemoryLanes
from ktqueue.lanes.redis import RedisLanes
from ktqueue.priority_class import entry_of
from ktqueue.redis_client import connect
from ktqueue.running import RunningLimits
from ktqueue.store.base import Store
from tests.contract.conftest import AnyStore
from tests.contract.test_store import HOUR, got, in_parallel, new_job

LIMITS = {"a": 1, "b": 3, "key_b": 2, "key_c": 1}
KEYS = (None, "key_b", "key_c", "key_d")
MODELS = ("echo", "other")


@pytest.fixture(params=["memory", "redis"])
def lanes(request: pytest.FixtureRequest) -> Iterator[Lanes]:
    if request.param == "memory":
        yield MemoryLanes(lambda _: None, lambda: time.time_ns() // 1_000_000, lambda: LIMITS)
        return
    with connect(request.getfixturevalue("redis_url")) as client:
        yield RedisLanes(client, lambda _: None, lambda: LIMITS)


def work(store: Store, lanes: Lanes, name: str, model: str, jobs: list[Job]) -> None:
    """Claim and end, or give back, until all have ended."""
    limits = RunningLimits(store, lanes, lambda: LIMITS)
    controls = WatchedControls(MemoryControls())
    execution = Execution(store, lanes, MemoryEvents(), controls, limits, lease_ms=HOUR)
    chance = random.Random(name)
    held: list[Job] = []
    while any(not job.state.terminal for job in store.jobs([job.id for job in jobs])):
        held += execution.claim(model, chance.randint(1, 4), token=name, worker=name)
        running = store.running_by_owner()
        assert all(running.get(owner, 0) <= most for owner, most in LIMITS.items()), running
        chance.shuffle(held)
        now, held = held[:2], held[2:]
        execution.settle(
            [execution.returned(job) if chance.random() < 0.2 else execution.success(job, {}, None, 1) for job in now]
        )


def key_of(number: int) -> str | None:
    tenant, key = "abc"[number % 3], KEYS[number // 3 % 4]
    return key if key in {f"key_{tenant}", "key_d"} else None


def test_workers_side_by_side_stay_within_every_limit(store: AnyStore, lanes: Lanes) -> None:
    jobs = [new_job(store, tenant="abc"[n % 3], model=MODELS[n % 2], priority=n % 10, key=key_of(n)) for n in range(60)]
    store.add(jobs)
    entries = [entry_of(job, job.created_at) for job in jobs]
    lanes.add([replace(entry, key=None) if n % 4 else entry for n, entry in enumerate(entries)])

    in_parallel(*(partial(work, store, lanes, f"w{n}", MODELS[n % 2], jobs) for n in range(4)))
    assert {got(store, job).state for job in jobs} == {JobState.SUCCEEDED}
    assert store.running_by_owner() == {}
