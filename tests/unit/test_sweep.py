"""The sweep: invariant 2, whatever died, and invariant 10, whatever Redis forgot."""

from __future__ import annotations

import math

import pytest

from ktqueue.errors import LanesUnavailable, StoreUnavailable
from ktqueue.events.base import END, REQUEUED, EventId
from ktqueue.job import Job, JobState
from ktqueue.retry import Backoff
from ktqueue.sweep import GROUP, LEASE_LOST, PAGE, PAGES_A_SWEEP, Repairs
from tests.support.scene import LEASE_MS, MODEL, Scene, submission

NOTHING = Repairs(recovered=0, expired=0, woken=0, requeued=0)
LONGEST_BACKOFF_S = Backoff().cap_ms / 1000


@pytest.fixture
def scene() -> Scene:
    return Scene()


def let_lapse(scene: Scene) -> None:
    scene.clock.sleep(LEASE_MS / 1000)


def many(scene: Scene, count: int) -> list[Job]:
    return scene.intake.submit_many([submission()] * count)


def test_where_all_is_well_nothing_is_done(scene: Scene) -> None:
    scene.submit()
    scene.submit(run_at=scene.clock.now() + 60_000, deadline_s=120)
    scene.claim(1)
    scene.submit()

    assert scene.sweep() == NOTHING


# --- leases ----------------------------------------------------------------------------------------------------


def test_a_job_whose_worker_died_is_tried_again(scene: Scene) -> None:
    job = scene.submit()
    scene.claim()
    scene.clock.sleep(LEASE_MS / 1000 - 0.001)
    assert scene.sweep() == NOTHING

    scene.clock.sleep(0.001)
    assert scene.sweep().recovered == 1
    row = scene.row(job)
    assert (row.state, row.attempt, row.error) == (JobState.QUEUED, 1, None)
    assert scene.told(job)[-1].id == EventId(1, REQUEUED)
    assert scene.true_lanes.cancels(MODEL, "")[0] == [job.id]

    scene.clock.sleep(LONGEST_BACKOFF_S)
    scene.sweep()
    assert [claimed.attempt for claimed in scene.claim()] == [2]


def test_a_job_whose_workers_all_died_has_failed(scene: Scene) -> None:
    job = scene.submit(max_attempts=3)
    for attempt in (1, 2, 3):
        [claimed] = scene.claim()
        assert claimed.attempt == attempt
        let_lapse(scene)
        scene.sweep()
        scene.clock.sleep(LONGEST_BACKOFF_S)
        scene.sweep()

    row = scene.row(job)
    assert (row.state, row.attempt, row.error) == (JobState.FAILED, 3, LEASE_LOST)
    assert row.error is not None
    assert row.error.code == "lease_lost"
    assert scene.told(job)[-1].id == EventId(3, END)
    assert scene.told(job)[-1].data["code"] == "lease_lost"


def test_a_lease_renewed_in_the_last_moment_holds(scene: Scene) -> None:
    job = scene.submit()
    claimed = scene.claim(token="mine")
    let_lapse(scene)

    def renew(name: str) -> None:
        if name == "finish":
            scene.true_store.renew("mine", [job.id], lease_ms=LEASE_MS)

    scene.sql.before = renew
    assert scene.sweep() == NOTHING
    assert scene.row(job).token == claimed[0].token


def test_a_crowd_of_dead_is_recovered_in_groups(scene: Scene) -> None:
    many(scene, GROUP + 7)
    scene.claim(GROUP + 7)
    let_lapse(scene)

    assert [scene.sweep().recovered for _ in range(3)] == [GROUP, 7, 0]


# --- deadlines and times ---------------------------------------------------------------------------------------


def test_a_waiting_job_expires_out_of_its_lane(scene: Scene) -> None:
    job, other = scene.submit(deadline_s=10), scene.submit(deadline_s=11)
    scene.clock.sleep(10)

    assert scene.sweep().expired == 1
    assert scene.row(job).state is JobState.EXPIRED
    assert scene.waiting() == [other.id]
    assert [(event.id, event.data) for event in scene.told(job)] == [(EventId(0, END), {"state": "expired"})]


def test_a_running_job_expires_and_its_slot_is_told(scene: Scene) -> None:
    job = scene.submit(deadline_s=1)
    [claimed] = scene.claim()
    scene.clock.sleep(1)
    scene.sweep()

    assert scene.row(job).state is JobState.EXPIRED
    assert scene.true_lanes.cancels(MODEL, "")[0] == [job.id]
    assert scene.told(job)[-1].id == EventId(1, END)
    assert scene.execution.settle([scene.execution.success(claimed, {}, None, 1)]) == set()


def test_a_job_for_later_expires_too(scene: Scene) -> None:
    job = scene.submit(deadline_s=1, run_at=scene.clock.now() + 60_000)
    scene.clock.sleep(1)
    scene.sweep()

    assert scene.row(job).state is JobState.EXPIRED


def test_a_job_for_later_is_woken_when_its_time_has_come(scene: Scene) -> None:
    job = scene.submit(run_at=scene.clock.now() + 1_000)
    scene.clock.sleep(0.999)
    assert scene.sweep() == NOTHING

    scene.clock.sleep(0.001)
    scene.bells.clear()
    assert scene.sweep().woken == 1
    assert scene.waiting() == [job.id]
    assert scene.bells == [MODEL]
    assert scene.sweep() == NOTHING


# --- repair ----------------------------------------------------------------------------------------------------


def test_a_lane_that_was_lost_is_rebuilt_and_rung_for(scene: Scene) -> None:
    many(scene, 3 * PAGE + 1)
    before = scene.waiting()
    scene.empty_lane()
    scene.bells.clear()

    assert scene.sweep().requeued == 3 * PAGE + 1
    assert scene.waiting() == before
    assert scene.bells == [MODEL]


def test_every_lane_is_rebuilt(scene: Scene) -> None:
    one, other = scene.submit(), scene.submit(model="other")
    scene.empty_lane()
    scene.true_lanes.pull("other", 10)

    assert scene.sweep().requeued == 2
    assert scene.waiting() == [one.id]
    assert scene.true_lanes.pull("other", 10) == [other.id]


def test_a_bell_that_was_lost_is_rung_again_while_anything_waits(scene: Scene) -> None:
    scene.submit()
    scene.execution.answer(MODEL)
    scene.bells.clear()
    scene.sweep()
    scene.sweep()

    assert scene.bells == [MODEL]


@pytest.mark.parametrize("first_lost", [0, 500, 3 * PAGE, (PAGES_A_SWEEP + 2) * PAGE])
def test_a_partial_loss_is_made_good_wherever_it_lies(scene: Scene, first_lost: int) -> None:
    total = (PAGES_A_SWEEP + 3) * PAGE
    many(scene, total)
    before = scene.waiting()
    for job_id in before[first_lost::7]:
        scene.true_lanes.remove(MODEL, job_id)

    sweeps = math.ceil(total / (PAGES_A_SWEEP * PAGE)) + 1
    added = [scene.sweep().requeued for _ in range(sweeps)]
    assert sum(added) == len(before[first_lost::7])
    assert scene.waiting() == before


def test_the_head_is_made_good_at_once(scene: Scene) -> None:
    total = (PAGES_A_SWEEP + 3) * PAGE
    many(scene, total)
    before = scene.waiting()
    for job_id in [*before[:10], *before[-10:]]:
        scene.true_lanes.remove(MODEL, job_id)

    scene.sweep()
    assert scene.waiting()[:10] == before[:10]


def test_a_running_job_is_not_brought_back(scene: Scene) -> None:
    scene.submit()
    scene.claim()

    assert scene.sweep() == NOTHING
    assert scene.waiting() == []


# --- side by side and in bad times -----------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["lapsed", "finish", "expire", "wake", "census", "waiting", "missing", "add"])
def test_sweeping_twice_side_by_side_is_sweeping_once(scene: Scene, call: str) -> None:
    lapsed, overdue = scene.submit(), scene.submit(deadline_s=8)
    scene.claim()
    woken, lost = scene.submit(run_at=scene.clock.now() + 8_000), scene.submit()
    scene.empty_lane()
    let_lapse(scene)
    other, others = scene.new_sweep(), list[Repairs]()

    def the_other_comes_between(name: str) -> None:
        if name == call:
            scene.sql.before = scene.redis.before = lambda _: None
            others.append(other())

    scene.sql.before = scene.redis.before = the_other_comes_between
    repairs = [scene.sweep(), *others]

    assert len(repairs) == 2
    assert [sum(one.recovered for one in repairs), sum(one.expired for one in repairs)] == [2, 1]
    assert sum(one.woken for one in repairs) == 1
    assert scene.row(overdue).state is JobState.EXPIRED
    assert (scene.row(lapsed).state, scene.row(lapsed).attempt) == (JobState.QUEUED, 1)
    assert sorted(scene.waiting()) == sorted([woken.id, lost.id])


def test_what_one_sweep_could_not_the_next_does(scene: Scene) -> None:
    job = scene.submit(run_at=scene.clock.now() + 1_000)
    scene.clock.sleep(1)
    scene.redis.go("add")
    with pytest.raises(LanesUnavailable):
        scene.sweep()
    assert scene.row(job).run_at is None

    scene.redis.come_back()
    assert scene.sweep() == Repairs(recovered=0, expired=0, woken=0, requeued=1)
    assert scene.waiting() == [job.id]


def test_without_a_database_there_is_nothing_to_sweep(scene: Scene) -> None:
    scene.sql.go()

    with pytest.raises(StoreUnavailable):
        scene.sweep()


def test_leases_are_recovered_without_redis(scene: Scene) -> None:
    job = scene.submit()
    scene.claim()
    let_lapse(scene)
    scene.redis.go()

    with pytest.raises(LanesUnavailable):
        scene.sweep()
    assert scene.row(job).state is JobState.QUEUED
