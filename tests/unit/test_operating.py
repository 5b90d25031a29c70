"""What operators order, and how submits and claims follow it."""

from __future__ import annotations

import pytest

from ktqueue.control import LaneMode
from ktqueue.errors import LaneDraining, StoreUnavailable
from ktqueue.job import JobState
from ktqueue.operating import GROUP, LONGEST_PURGE_S, Purge
from ktqueue.store.base import IdempotencyKey, Queued
from ktqueue.watched import FRESH_S
from tests.support.draining import job_of, runner, states, toy
from tests.support.scene import MODEL, Scene, submission


@pytest.fixture
def scene() -> Scene:
    return Scene()


def order(scene: Scene, mode: LaneMode) -> None:
    scene.operating.order(MODEL, mode)
    scene.clock.sleep(FRESH_S)


# --- pause ---


def test_a_paused_lane_takes_and_keeps(scene: Scene) -> None:
    order(scene, LaneMode.PAUSED)
    job = scene.submit()
    assert scene.claim() == []
    assert scene.waiting() == [job.id]
    order(scene, LaneMode.OPEN)
    assert [claimed.id for claimed in scene.claim()] == [job.id]


def test_what_runs_in_a_paused_lane_goes_on_and_nothing_joins_it(scene: Scene) -> None:
    first = job_of(scene, steps=200)
    engine = toy(scene, at={2: lambda: scene.operating.order(MODEL, LaneMode.PAUSED), 100: lambda: job_of(scene)})
    assert runner(scene, engine).drain() == 1
    assert states(scene, [first]) == [JobState.SUCCEEDED]
    assert len(scene.waiting()) == 1


def test_suspects_of_a_paused_lane_wait_too(scene: Scene) -> None:
    for _ in range(2):
        scene.submit()
    for _ in range(8):
        scene.execution.crash(scene.claim())
    assert scene.execution.has_suspects(MODEL)
    order(scene, LaneMode.PAUSED)
    before = scene.sql.calls["has_suspects"]
    assert not scene.execution.has_suspects(MODEL)
    assert scene.sql.calls["has_suspects"] == before
    assert scene.claim_suspects() == []
    order(scene, LaneMode.OPEN)
    assert len(scene.claim_suspects()) == 1


def test_a_pull_costs_no_query_more(scene: Scene) -> None:
    scene.submit()
    scene.claim()
    before = scene.sql.calls.total()
    scene.submit()
    scene.claim()
    assert scene.sql.calls.total() - before == len(["now", "add", "claim"])


# --- drain ---


def test_a_draining_lane_refuses_and_runs_what_it_has(scene: Scene) -> None:
    job = scene.submit()
    order(scene, LaneMode.DRAINING)
    with pytest.raises(LaneDraining, match="'echo' is being drained"):
        scene.submit()
    with pytest.raises(LaneDraining):
        scene.intake.submit_many([submission()])
    scene.submit(model="other")
    assert [claimed.id for claimed in scene.claim()] == [job.id]


def test_a_request_that_was_accepted_is_answered_while_its_lane_drains(scene: Scene) -> None:
    key = IdempotencyKey("key", "digest")
    job, _ = scene.intake.submit(submission(), key)
    order(scene, LaneMode.DRAINING)
    assert scene.intake.submit(submission(), key) == (job, False)
    with pytest.raises(LaneDraining):
        scene.intake.submit(submission(), IdempotencyKey("another", "digest"))


# --- concurrency ---


def test_no_more_run_at_once_than_was_ordered(scene: Scene) -> None:
    scene.operating.bound(MODEL, 3)
    jobs = [job_of(scene) for _ in range(7)]
    first, second = scene.claim(2, "a"), scene.claim(5, "b")
    assert [job.id for job in first + second] == [job.id for job in jobs[:3]]
    assert scene.claim(5, "c") == []
    assert scene.waiting() == [job.id for job in jobs[3:]]
    scene.execution.settle([scene.execution.success(job, {}, None, 1) for job in first])
    assert len(scene.claim(5, "c")) == 2
    scene.operating.bound(MODEL, None)
    scene.clock.sleep(FRESH_S)
    assert len(scene.claim(5, "d")) == 2


def test_a_batch_stays_within_the_bound_and_ends_all(scene: Scene) -> None:
    scene.operating.bound(MODEL, 2)
    jobs = [job_of(scene, steps=3) for _ in range(9)]
    runner(scene, toy(scene, capacity=4)).drain()
    assert states(scene, jobs) == [JobState.SUCCEEDED] * 9
    assert {scene.row(job).largest_batch for job in jobs} <= {1, 2}


# --- purge ---


def test_a_purge_cancels_what_waits_and_tells(scene: Scene) -> None:
    running = scene.submit()
    scene.claim()
    waiting = [scene.submit() for _ in range(3)]
    other = scene.submit(model="other")
    assert scene.operating.count(Queued(MODEL)) == 3
    assert scene.operating.purge(Queued(MODEL)) == Purge(3, 0)
    assert states(scene, waiting) == [JobState.CANCELLED] * 3
    assert states(scene, [running, other]) == [JobState.RUNNING, JobState.QUEUED]
    assert scene.waiting() == []
    assert [event.data for event in scene.told(waiting[0])] == [{"state": "cancelled"}]
    assert scene.operating.purge(Queued(MODEL)) == Purge(0, 0)


def test_a_purge_ends_in_time_and_says_what_is_left(scene: Scene) -> None:
    for _ in range(GROUP + 7):
        scene.submit()
    scene.sql.before = lambda name: scene.clock.sleep(LONGEST_PURGE_S if name == "cancel_queued" else 0)
    assert scene.operating.purge(Queued(MODEL)) == Purge(GROUP, 7)
    assert scene.operating.purge(Queued(MODEL)) == Purge(7, 0)


def test_a_purge_of_what_is_old(scene: Scene) -> None:
    old = scene.submit()
    scene.clock.sleep(60)
    young = scene.submit()
    assert scene.operating.purge(Queued(MODEL, created_before=scene.operating.created_before(60))) == Purge(0, 0)
    assert scene.operating.purge(Queued(MODEL, created_before=scene.operating.created_before(59))) == Purge(1, 0)
    assert states(scene, [old, young]) == [JobState.CANCELLED, JobState.QUEUED]


def test_without_redis_orders_hold_all_the_same(scene: Scene) -> None:
    job = scene.submit()
    scene.redis.go()
    scene.operating.order(MODEL, LaneMode.OPEN)
    scene.operating.bound(MODEL, 5)
    assert scene.operating.purge(Queued(MODEL)) == Purge(1, 0)
    scene.redis.come_back()
    # Its id is still in the lane, and passed over.
    assert scene.waiting() == [job.id]
    assert scene.claim() == []


def test_without_the_database_nothing_is_ordered(scene: Scene) -> None:
    scene.sql.go()
    with pytest.raises(StoreUnavailable):
        scene.operating.order(MODEL, LaneMode.PAUSED)


def test_what_may_run_again_is_rung_for(scene: Scene) -> None:
    order(scene, LaneMode.PAUSED)
    scene.true_lanes.answer(MODEL)
    scene.bells.clear()
    scene.operating.order(MODEL, LaneMode.OPEN)
    assert scene.bells == [MODEL]
