"""What a worker does with jobs: claim, settle under the fence, renew, give back."""

from __future__ import annotations

import pytest

from ktqueue.errors import LanesUnavailable, StoreUnavailable
from ktqueue.events.base import END, REQUEUED, EventId
from ktqueue.execution import LEAST_S
from ktqueue.job import Job, JobError, JobState, Usage
from ktqueue.retry import Backoff
from tests.support.scene import LEASE_MS, MODEL, Scene

PASSING = JobError("busy", "try again", retryable=True)
FINAL = JobError("bad", "never", retryable=False)
USAGE = Usage(3, 4)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def last_told(scene: Scene, job: Job) -> tuple[EventId, dict[str, str]]:
    event = scene.told(job)[-1]
    return event.id, event.data


# --- claim -----------------------------------------------------------------------------------------------------


def test_a_claimed_job_runs_under_a_token_a_lease_and_one_more_attempt(scene: Scene) -> None:
    job = scene.submit()
    [claimed] = scene.claim(token="mine")

    assert claimed == scene.row(job)
    assert (claimed.state, claimed.token, claimed.attempt, claimed.claims) == (JobState.RUNNING, "mine", 1, 1)
    assert claimed.lease_until == scene.clock.now() + LEASE_MS
    assert last_told(scene, job) == (EventId(1, 0), {"state": "running"})


def test_higher_ranks_are_claimed_first_and_no_more_than_fit(scene: Scene) -> None:
    jobs = [scene.submit(priority=priority) for priority in (0, 9, 5)]

    assert [job.id for job in scene.claim(2)] == [jobs[1].id, jobs[2].id]
    assert scene.waiting() == [jobs[0].id]


def test_a_worker_that_finds_as_much_as_it_can_hold_wakes_the_next(scene: Scene) -> None:
    for _ in range(3):
        scene.submit()
    scene.execution.answer(MODEL)
    scene.bells.clear()

    scene.claim(2)
    assert scene.bells == [MODEL]
    scene.execution.answer(MODEL)
    scene.claim(2)
    assert scene.bells == [MODEL]


def test_an_empty_lane_gives_nothing_and_asks_no_database(scene: Scene) -> None:
    scene.claim()
    scene.sql.go()

    assert scene.claim() == []


def test_what_ended_while_it_waited_is_not_claimed(scene: Scene) -> None:
    cancelled, late, good = scene.submit(), scene.submit(deadline_s=1), scene.submit()
    scene.true_store.cancel(cancelled.id)
    scene.clock.sleep(2)

    assert [job.id for job in scene.claim()] == [good.id]
    assert scene.row(late).attempt == 0


def run_slowly(scene: Scene) -> None:
    """Let a job of 1,000 units be known to take ten seconds, while others wait."""
    for _ in range(2):
        scene.submit(params={"delay_ms": 1_000}, priority=9)
    [first] = scene.claim(1)
    scene.clock.sleep(10)
    scene.execution.settle([scene.execution.success(first, {}, None, 1)])
    assert scene.execution._least_ms_each(MODEL) == pytest.approx(5)


def test_a_job_that_can_not_be_in_time_expires_at_its_turn_without_a_slot(scene: Scene) -> None:
    run_slowly(scene)
    late, good = (scene.submit(params={"delay_ms": 1_000}, deadline_s=seconds) for seconds in (5, 6))
    small = scene.submit(params={"delay_ms": 100}, deadline_s=5)
    claimed = [job.id for job in scene.claim()]

    assert late.id not in claimed
    assert {good.id, small.id} < set(claimed)
    assert (scene.row(late).state, scene.row(late).attempt) == (JobState.EXPIRED, 0)
    assert [(event.id, event.data) for event in scene.told(late)] == [(EventId(0, END), {"state": "expired"})]


def test_what_can_not_be_expired_at_its_turn_is_left_to_the_sweep(scene: Scene) -> None:
    run_slowly(scene)
    late = scene.submit(params={"delay_ms": 1_000}, deadline_s=4)
    scene.sql.go("expire_late")
    assert late.id not in [job.id for job in scene.claim()]
    scene.sql.come_back()

    assert scene.sweep().expired == 1
    assert scene.row(late).state is JobState.EXPIRED
    assert scene.row(late).finished_at == scene.clock.now()


def test_what_was_measured_long_ago_ends_nobody(scene: Scene) -> None:
    run_slowly(scene)
    scene.clock.sleep(LEAST_S)
    late = scene.submit(params={"delay_ms": 1_000}, deadline_s=1)
    assert late.id in [job.id for job in scene.claim()]


def test_ids_that_were_pulled_and_not_claimed_come_back(scene: Scene) -> None:
    job = scene.submit()
    scene.sql.go("claim")
    with pytest.raises(StoreUnavailable):
        scene.claim()
    assert scene.waiting() == []

    scene.sql.come_back()
    scene.sweep()
    assert [claimed.id for claimed in scene.claim()] == [job.id]


def test_without_redis_there_is_nothing_to_claim_from(scene: Scene) -> None:
    scene.redis.go()

    with pytest.raises(LanesUnavailable):
        scene.claim()
    with pytest.raises(LanesUnavailable):
        scene.execution.answer(MODEL)


# --- settle ----------------------------------------------------------------------------------------------------


def test_a_success_is_written_told_and_counted(scene: Scene) -> None:
    job = scene.submit()
    [claimed] = scene.claim()
    scene.execution.settle([scene.execution.success(claimed, {"text": "hi"}, USAGE, 7)])

    row = scene.row(job)
    assert (row.state, row.result, row.usage, row.largest_batch) == (JobState.SUCCEEDED, {"text": "hi"}, USAGE, 7)
    assert (row.token, row.lease_until, row.finished_at) == (None, None, scene.clock.now())
    assert last_told(scene, job) == (EventId(1, END), {"state": "succeeded"})
    assert scene.true_lanes.view(MODEL).rate is not None


def test_a_passing_failure_is_tried_again_after_its_back_off(scene: Scene) -> None:
    job = scene.submit(max_attempts=2)
    [claimed] = scene.claim()
    scene.execution.settle([scene.execution.failure(claimed, PASSING)])

    row = scene.row(job)
    assert (row.state, row.attempt, row.error) == (JobState.QUEUED, 1, None)
    assert row.run_at == scene.clock.now() + Backoff().delay_ms(1, 0.5)
    assert last_told(scene, job) == (EventId(1, REQUEUED), {"state": "queued"})
    assert scene.true_lanes.view(MODEL).rate is None

    scene.clock.sleep(0.5)
    scene.sweep()
    [claimed] = scene.claim()
    scene.execution.settle([scene.execution.failure(claimed, PASSING)])
    assert (scene.row(job).state, scene.row(job).error) == (JobState.FAILED, PASSING)


def test_a_final_failure_says_why(scene: Scene) -> None:
    job = scene.submit()
    [claimed] = scene.claim()
    scene.execution.settle([scene.execution.failure(claimed, FINAL)])

    assert scene.row(job).error == FINAL
    assert last_told(scene, job) == (EventId(1, END), {"state": "failed", "code": "bad", "message": "never"})


def test_a_late_worker_changes_nothing(scene: Scene) -> None:
    job = scene.submit()
    [late] = scene.claim(token="late")
    scene.clock.sleep(LEASE_MS / 1000)
    scene.sweep()
    scene.clock.sleep(1)
    scene.sweep()
    [held] = scene.claim(token="new")

    scene.execution.settle([scene.execution.success(late, {"by": "the late one"}, None, 1)])
    assert scene.row(job) == held
    scene.execution.settle([scene.execution.success(held, {"by": "the new one"}, None, 1)])
    scene.execution.settle([scene.execution.success(late, {"by": "the late one"}, None, 1)])
    assert scene.row(job).result == {"by": "the new one"}


def test_the_same_token_is_fenced_by_its_claim(scene: Scene) -> None:
    job = scene.submit()
    [first] = scene.claim(token="mine")
    scene.clock.sleep(LEASE_MS / 1000)
    scene.sweep()
    scene.clock.sleep(1)
    scene.sweep()
    [second] = scene.claim(token="mine")

    assert scene.execution.settle([scene.execution.success(first, {"attempt": 1}, None, 1)]) == set()
    assert scene.row(job) == second
    assert scene.execution.settle([scene.execution.success(second, {"attempt": 2}, None, 1)]) == {job.id}
    assert scene.row(job).result == {"attempt": 2}


def test_a_cancelled_job_is_never_succeeded(scene: Scene) -> None:
    job, other = scene.submit(), scene.submit()
    claimed = scene.claim()
    scene.intake.cancel(job.id)
    scene.execution.settle([scene.execution.success(one, {}, None, 2) for one in claimed])

    assert scene.row(job).state is JobState.CANCELLED
    assert scene.row(other).state is JobState.SUCCEEDED


def test_what_is_no_longer_ours_is_not_told_as_ours(scene: Scene) -> None:
    job = scene.submit()
    [claimed] = scene.claim()
    scene.true_store.cancel(job.id)

    assert scene.execution.settle([scene.execution.success(claimed, {}, None, 1)]) == set()
    assert [event.data["state"] for event in scene.told(job)] == ["running"]
    assert scene.true_lanes.view(MODEL).rate is None


def test_verdicts_are_written_without_redis(scene: Scene) -> None:
    job = scene.submit()
    [claimed] = scene.claim()
    scene.redis.go()
    scene.execution.settle([scene.execution.success(claimed, {}, None, 1)])

    assert scene.row(job).state is JobState.SUCCEEDED


def test_a_settle_whose_answer_was_lost_may_be_repeated(scene: Scene) -> None:
    job = scene.submit()
    [claimed] = scene.claim()
    settled = [scene.execution.success(claimed, {}, None, 1)]
    scene.sql.too_late = True
    scene.sql.go("finish")
    with pytest.raises(StoreUnavailable):
        scene.execution.settle(settled)
    done = scene.row(job)

    scene.sql.come_back()
    scene.execution.settle(settled)
    assert scene.row(job) == done
    assert done.state is JobState.SUCCEEDED


# --- renew, give back, cancels ---------------------------------------------------------------------------------


def test_a_renewed_lease_counts_from_now(scene: Scene) -> None:
    job = scene.submit()
    claimed = scene.claim(token="mine")
    scene.clock.sleep(5)

    assert scene.execution.renew("mine", claimed) == set()
    assert scene.row(job).lease_until == scene.clock.now() + LEASE_MS


def test_what_is_no_longer_ours_is_told(scene: Scene) -> None:
    kept, cancelled = scene.submit(), scene.submit()
    claimed = scene.claim(token="mine")
    scene.intake.cancel(cancelled.id)

    assert scene.execution.renew("mine", claimed) == {cancelled.id}
    assert scene.execution.renew("another's", claimed) == {kept.id, cancelled.id}


def test_what_is_given_back_is_not_charged_and_waits_in_its_old_place(scene: Scene) -> None:
    first, second = scene.submit(priority=9), scene.submit()
    claimed = scene.claim(1)
    scene.execution.give_back(claimed)

    row = scene.row(first)
    assert (row.state, row.attempt, row.claims, row.run_at) == (JobState.QUEUED, 0, 1, None)
    assert scene.waiting() == [first.id, second.id]
    assert last_told(scene, first) == (EventId(1, REQUEUED), {"state": "queued"})


def test_only_what_is_still_ours_is_given_back(scene: Scene) -> None:
    job = scene.submit()
    claimed = scene.claim()
    scene.intake.cancel(job.id)
    scene.execution.give_back(claimed)

    assert scene.row(job).state is JobState.CANCELLED
    assert scene.waiting() == []


def test_without_redis_what_is_given_back_waits_for_the_sweep(scene: Scene) -> None:
    job = scene.submit()
    claimed = scene.claim()
    scene.redis.go()
    scene.execution.give_back(claimed)
    assert scene.row(job).state is JobState.QUEUED

    scene.redis.come_back()
    scene.sweep()
    assert scene.waiting() == [job.id]


def test_cancels_are_read_from_a_mark_on(scene: Scene) -> None:
    scene.true_lanes.ask_cancel(MODEL, ["job_1"])
    ids, mark = scene.execution.cancels(MODEL, "")
    scene.true_lanes.ask_cancel(MODEL, ["job_2"])

    assert ids == ["job_1"]
    scene.redis.go()
    assert scene.execution.cancels(MODEL, mark) == ([], mark)
    scene.redis.come_back()
    assert scene.execution.cancels(MODEL, mark)[0] == ["job_2"]
