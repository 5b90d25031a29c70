"""Workers of several lanes side by side, over every store and both lanes: never more run than may, and all do."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
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
from ktqueue.redis_client import connect
from ktqueue.running import RunningLimits
from ktqueue.store.base import Store
from ktqueue.turns import entry_of
from tests.contract.conftest import AnyStore
from tests.contract.test_store import HOUR, got, in_parallel, new_job

LIMITS = {"a": 1, "b": 3}
MODELS = ("echo", "other")


@pytest.fixture(params=["memory", "redis"])
def lanes(request: pytest.FixtureRequest) -> Iterator[Lanes]:
    if request.param == "memory":
        yield MemoryLanes(lambda _: None, lambda: time.time_ns() // 1_000_000)
        return
    with connect(request.getfixturevalue("redis_url")) as client:
        yield RedisLanes(client, lambda _: None)


def work(store: Store, lanes: Lanes, name: str, model: str, jobs: list[Job]) -> None:
    """Claim and end, or give back, until all have ended."""
    limits = RunningLimits(store, lanes, lambda: LIMITS)
    controls = WatchedControls(MemoryControls())
    execution = Execution(store, lanes, MemoryEvents(), controls, limits, lease_ms=HOUR)
    chance = random.Random(name)
    held: list[Job] = []
    while any(not job.state.terminal for job in store.jobs([job.id for job in jobs])):
        held += execution.claim(model, chance.randint(1, 4), token=name, worker=name)
        running = store.tenants_running()
        assert all(running.get(tenant, 0) <= most for tenant, most in LIMITS.items()), running
        chance.shuffle(held)
        now, held = held[:2], held[2:]
        execution.settle(
            [execution.returned(job) if chance.random() < 0.2 else execution.success(job, {}, None, 1) for job in now]
        )


def test_workers_side_by_side_stay_within_every_tenants_limit(store: AnyStore, lanes: Lanes) -> None:
    jobs = [new_job(store, tenant="abc"[n % 3], model=MODELS[n % 2], priority=n % 10) for n in range(60)]
    store.add(jobs)
    lanes.add([entry_of(job, job.created_at) for job in jobs])

    in_parallel(*(partial(work, store, lanes, f"w{n}", MODELS[n % 2], jobs) for n in range(4)))
    assert {got(store, job).state for job in jobs} == {JobState.SUCCEEDED}
    assert store.tenants_running() == {}
