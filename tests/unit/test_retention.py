"""Retention: what ended long ago goes, in small groups; the rest stays."""

from __future__ import annotations

import pytest

from ktqueue.errors import StoreUnavailable
from ktqueue.job import Job
from ktqueue.outbox.memory import MemoryOutbox
from ktqueue.retention import BUDGET_S, LARGEST_GROUP, ROUND_S, SMALLEST_GROUP, TURN_S, Retention
from ktqueue.store.base import JobQuery, Pruned
from ktqueue.store.memory import MemoryStore
from tests.support.scene import RETENTION_DAYS, Clock, Scene, submission

DAY_S = 86_400.0


class SlowStore(MemoryStore):
    """Pruning takes its time: so many seconds for each job looked at."""

    def __init__(self, clock: Clock, seconds_a_job: float) -> None:
        super().__init__(clock.now, MemoryOutbox(clock.now))
        self._wall = clock
        self.seconds_a_job = seconds_a_job
        self.limits: list[int] = []

    def prune(self, before: int, *, after: str, limit: int) -> Pruned:
        self.limits.append(limit)
        self._wall.sleep(limit * self.seconds_a_job)
        return super().prune(before, after=after, limit=limit)


def ended(scene: Scene, count: int) -> list[Job]:
    jobs = scene.intake.submit_many([submission()] * count)
    for job in jobs:
        scene.intake.cancel(job.id)
    return jobs


def test_what_ended_is_kept_for_so_many_days() -> None:
    scene = Scene()
    (job,) = ended(scene, 1)
    waiting = scene.submit()
    scene.clock.sleep(RETENTION_DAYS * DAY_S)
    assert scene.sweep().pruned == 0

    scene.clock.sleep(ROUND_S + 1)
    assert scene.sweep().pruned == 1
    assert scene.true_store.get(job.id) is None
    assert scene.row(waiting).id == waiting.id


def test_of_many_every_one_goes() -> None:
    scene = Scene()
    ended(scene, 3 * LARGEST_GROUP)
    scene.submit()
    ended(scene, 5)
    scene.clock.sleep(RETENTION_DAYS * DAY_S + 1)

    assert scene.sweep().pruned == 3 * LARGEST_GROUP + 5
    assert scene.sweep().pruned == 0


def test_the_next_walk_comes_a_while_later() -> None:
    scene = Scene()
    scene.sweep()
    looked = scene.sql.calls["prune"]
    for _ in range(10):
        scene.clock.sleep(ROUND_S / 20)
        scene.sweep()
    assert scene.sql.calls["prune"] == looked

    scene.clock.sleep(ROUND_S)
    scene.sweep()
    assert scene.sql.calls["prune"] > looked


def pruning(seconds_a_job: float) -> tuple[SlowStore, Retention, Clock]:
    """Of 3,000 jobs that ended long ago."""
    scene = Scene()
    store = scene.true_store = SlowStore(scene.clock, seconds_a_job)
    ended(scene, 3_000)
    scene.clock.sleep(RETENTION_DAYS * DAY_S + 1)
    return (
        store,
        Retention(store, scene.outbox, days=RETENTION_DAYS, clock=scene.clock.monotonic, sleep=scene.clock.sleep),
        scene.clock,
    )


def test_a_slow_store_is_asked_for_less_at_a_time() -> None:
    store, retention, clock = pruning(0.001)
    while store.search(JobQuery(limit=1)):
        retention()
        clock.sleep(1)

    assert store.limits[0] == LARGEST_GROUP
    assert all(SMALLEST_GROUP <= limit <= 2 * TURN_S / 0.001 for limit in store.limits[1:])


def test_a_round_keeps_to_its_budget_and_leaves_half_of_it_to_others() -> None:
    store, retention, clock = pruning(0.0001)
    began = clock.monotonic()
    retention()

    assert clock.monotonic() - began <= BUDGET_S + 2 * LARGEST_GROUP * 0.0001
    assert sum(store.limits) * 0.0001 <= BUDGET_S / 2 + LARGEST_GROUP * 0.0001


def test_without_a_store_the_walk_goes_on_where_it_was() -> None:
    scene = Scene()
    ended(scene, 3)
    scene.clock.sleep(RETENTION_DAYS * DAY_S + 1)
    scene.sql.go("prune")
    with pytest.raises(StoreUnavailable):
        scene.sweep()

    scene.sql.come_back()
    assert scene.sweep().pruned == 3
