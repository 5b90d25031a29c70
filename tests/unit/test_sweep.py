"""The sweep: invariant 2, whatever died, and invariant 10, whatever Redis forgot."""

from __future__ import annotations

import math

import pytest

from ktqueue.blame import FREE
from ktqueue.errors import LanesUnavailable, StoreUnavailable
from ktqueue.events.base import END, REQUEUED, EventId
from ktqueue.job import ENGINE_CRASHED, Job, JobState, Outcome
from ktqueue.lanes.base import Backlog
from ktqueue.priority_class import entry_of
from ktqueue.recovery import GROUP
from ktqueue.retry import Backoff
from ktqueue.sweep import CUT_MS, PAGE, PAGES_A_SWEEP, Repairs
from tests.support.scene import LEASE_MS, MODEL, Scene, ended, submission

NOTHING = Repairs(recovered=0, expired=0, woken=0, requeued=0)
LONGEST_BACKOFF_S = Backoff().cap_ms / 1000


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def crowd(scene: Scene) -> list[Job]:
    """Of 64 that died together, once too often to be by chance."""
    jobs = many(scene, 64)
    for token in (f"crash {number}" for number in range(FREE + 1)):
        scene.sweep()
        scene.claim(token=token)
        scene.dead.add(f"worker of {token}")
    return jobs


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


def test_a_job_whose_worker_fell_silent_is_tried_again(scene: Scene) -> None:
    job = scene.submit()
    scene.claim()
    scene.clock.sleep(LEASE_MS / 1000 - 0.001)
    assert scene.sweep() == NOTHING

    scene.clock.sleep(0.001)
    assert scene.sweep().recovered == 1
    row = scene.row(job)
    assert (row.state, row.attempt, row.crashes, row.error) == (JobState.QUEUED, 0, 1, None)
    assert scene.told(job)[-1].id == EventId(1, REQUEUED)
    assert scene.true_lanes.cancels(MODEL, "")[0] == [job.id]
    assert [claimed.attempt for claimed in scene.claim()] == [1]


def test_a_job_whose_workers_all_died_has_failed(scene: Scene) -> None:
    job = scene.submit(max_attempts=3)
    for attempt in (*[1] * FREE, 1, 2, 3):
        [claimed] = scene.claim() or scene.claim_suspects()
        assert claimed.attempt == attempt
        let_lapse(scene)
        scene.sweep()
        scene.clock.sleep(LONGEST_BACKOFF_S)
        scene.sweep()

    row = scene.row(job)
    assert (row.state, row.attempt, row.error) == (JobState.FAILED, 3, ENGINE_CRASHED)
    assert scene.told(job)[-1].id == EventId(FREE + 3, END)
    assert scene.told(job)[-1].data["code"] == "engine_crashed"
    assert [(each.attempt, each.charged, each.outcome) for each in scene.intake.attempts(job.id)] == [
        *[(1, False, Outcome.LEASE_LOST)] * FREE,
        (1, True, Outcome.LEASE_LOST),
        (2, True, Outcome.LEASE_LOST),
        (3, True, Outcome.CRASHED),
    ]


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


def test_the_jobs_of_a_process_that_is_seen_to_be_dead_go_back_into_the_lane_at_once(scene: Scene) -> None:
    jobs = many(scene, 64)
    scene.claim(token="dead")
    scene.dead.add("worker of dead")

    assert scene.sweep().recovered == 64
    assert {(scene.row(job).state, scene.row(job).attempt, scene.row(job).company) for job in jobs} == {
        (JobState.QUEUED, 0, None)
    }
    assert sorted(scene.waiting()) == sorted(job.id for job in jobs)


def test_those_that_die_together_again_are_suspects(scene: Scene, crowd: list[Job]) -> None:
    other = scene.submit()
    scene.claim(token="alive")

    assert scene.sweep().recovered == 64
    assert {(scene.row(job).state, scene.row(job).attempt, scene.row(job).company) for job in crowd} == {
        (JobState.QUEUED, 0, 8)
    }
    assert scene.row(other).state is JobState.RUNNING
    assert scene.bells
    assert scene.waiting() == []
    assert scene.told(crowd[0])[-1].id == EventId(FREE + 1, REQUEUED)


def test_suspects_run_in_ever_smaller_company_and_are_not_charged(scene: Scene, crowd: list[Job]) -> None:
    scene.sweep()
    assert scene.claim() == []
    first = scene.claim_suspects(token="eight")
    scene.execution.settle([scene.execution.success(job, {}, None, 8) for job in first])
    second = scene.claim_suspects(token="more")
    assert [len(first), len(second)] == [8, 8]
    scene.dead.add("worker of more")
    scene.sweep()

    # Those that may have the most company come first: they are more, and less likely to be the culprit.
    assert all(len(scene.claim_suspects(token=f"t{n}")) == 8 for n in range(6))
    [alone] = scene.claim_suspects(token="alone")
    assert (alone.company, alone.attempt, alone.claims) == (1, 1, FREE + 3)
    assert {scene.row(job).attempt for job in first} == {1}
    assert [each.outcome for each in scene.intake.attempts(alone.id)] == [
        *[Outcome.CRASHED] * (FREE + 2),
        Outcome.RUNNING,
    ]


def test_a_suspect_is_not_claimed_among_others_though_a_lane_holds_it(scene: Scene, crowd: list[Job]) -> None:
    scene.sweep()
    scene.true_lanes.add([entry_of(job, job.created_at) for job in crowd])

    assert scene.claim() == []


@pytest.mark.usefixtures("crowd")
def test_suspects_whose_bell_was_lost_are_rung_for_again(scene: Scene) -> None:
    scene.sweep()
    scene.bells.clear()
    scene.true_lanes.answer(MODEL)
    scene.sweep()

    assert scene.bells == [MODEL]


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


def serve_slowly(scene: Scene) -> None:
    """Let it be known that a run takes ten milliseconds for each unit of its cost, while others wait."""
    scene.submit(priority=0)
    scene.true_lanes.count_finished(MODEL, ended(1, estimate=1_000, cost=1_000, run_ms=10_000))


def test_a_job_expires_as_soon_as_it_can_not_be_in_time_any_more(scene: Scene) -> None:
    serve_slowly(scene)
    job, patient = (scene.submit(params={"delay_ms": 1_000}, deadline_s=seconds) for seconds in (8, 60))
    small = scene.submit(params={"delay_ms": 10}, deadline_s=8)
    scene.clock.sleep(2.9)
    assert scene.sweep().expired == 0
    scene.clock.sleep(0.1)

    assert scene.sweep().expired == 1
    assert scene.row(job).state is JobState.EXPIRED
    assert job.id not in scene.waiting()
    assert [(event.id, event.data) for event in scene.told(job)] == [(EventId(0, END), {"state": "expired"})]
    assert [scene.row(each).state for each in (small, patient)] == [JobState.QUEUED] * 2


def test_what_runs_is_left_to_its_deadline(scene: Scene) -> None:
    job = scene.submit(params={"delay_ms": 1_000}, deadline_s=8)
    scene.claim()
    serve_slowly(scene)
    scene.clock.sleep(4)
    assert scene.sweep().expired == 0
    assert scene.row(job).state is JobState.RUNNING


def test_nobody_expires_early_of_whom_nothing_is_known(scene: Scene) -> None:
    job = scene.submit(params={"delay_ms": 1_000}, deadline_s=0.5)
    assert scene.sweep().expired == 0
    serve_slowly(scene)
    scene.clock.sleep(100)
    later = scene.submit(params={"delay_ms": 1_000}, deadline_s=1)
    assert scene.sweep().expired == 1
    assert (scene.row(job).state, scene.row(later).state) == (JobState.EXPIRED, JobState.QUEUED)


def test_a_running_job_expires_and_its_slot_is_told(scene: Scene) -> None:
    job = scene.submit(deadline_s=1)
    [claimed] = scene.claim()
    scene.clock.sleep(1)
    scene.sweep()
    assert scene.row(job).state is JobState.RUNNING, "its slot will say what there is of its result"
    scene.clock.sleep(CUT_MS / 1000)
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
    assert (scene.row(lapsed).state, scene.row(lapsed).claims) == (JobState.QUEUED, 1)
    # One that the other has expired meanwhile may be left in the lane, where nobody can claim it.
    assert set(scene.waiting()) - {overdue.id} == {lapsed.id, woken.id, lost.id}


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


# --- the census ------------------------------------------------------------------------------------------------


def counts_taking(scene: Scene, seconds: float, sweeps: int) -> int:
    """How many of so many sweeps, a second apart, count what is queued."""

    def take(name: str) -> None:
        if name == "census":
            scene.clock.sleep(seconds)

    scene.sql.before = take
    for _ in range(sweeps):
        began = scene.clock.monotonic()
        scene.sweep()
        scene.clock.sleep(max(0.0, began + 1 - scene.clock.monotonic()))
    return scene.sql.calls["census"]


@pytest.mark.parametrize(("seconds", "every"), [(0.001, 1), (0.1, 1), (0.3, 3), (0.5, 5), (0.9, 5)])
def test_counting_takes_a_tenth_of_the_time_at_most_but_is_never_forgotten(
    scene: Scene, seconds: float, every: int
) -> None:
    assert counts_taking(scene, seconds, 60) == 60 // every


def test_between_two_counts_lanes_are_still_repaired(scene: Scene) -> None:
    jobs = many(scene, 3)
    counted = counts_taking(scene, 0.5, 1)
    scene.empty_lane()
    scene.bells.clear()

    assert scene.sweep().requeued == 3
    assert scene.bells == [MODEL]
    assert scene.waiting() == [job.id for job in jobs]
    assert scene.sql.calls["census"] == counted


def test_what_was_counted_is_told_to_whoever_admits(scene: Scene) -> None:
    scene.submit(run_at=scene.clock.now() + 60_000)
    job = scene.submit()
    scene.sweep()

    assert scene.true_lanes.backlog() == Backlog(scene.clock.now(), {MODEL: 1}, 2 * job.size)


def test_the_weights_of_tenants_are_told_to_the_lanes(scene: Scene) -> None:
    scene.weights["a"] = 2.0
    scene.sweep()
    for number in range(30):
        scene.submit(tenant="ab"[number % 2])

    tenants = [job.tenant for job in scene.claim(18)]
    assert (tenants.count("a"), tenants.count("b")) == (12, 6)


def test_what_was_used_is_added_up_when_all_else_is_done(scene: Scene) -> None:
    jobs = many(scene, 2)
    scene.claim()
    scene.dead.add("worker of t")
    scene.sql.go("post")
    with pytest.raises(StoreUnavailable):
        scene.sweep()
    assert {scene.intake.get(job.id, job.tenant).state for job in jobs} == {JobState.QUEUED}
    scene.sql.come_back()
    scene.sweep()
    assert scene.sql.calls["post"] == 2
