"""What clients may do with jobs. Invariant 1: a submit that returns has committed. Invariant 5: one key, one job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktqueue.errors import Conflict, IdempotencyMismatch, NotFound, QueueFull, StoreUnavailable
from ktqueue.events.base import END, Event, EventId
from ktqueue.intake import LaneStatus
from ktqueue.job import Job, JobError, JobState, Place
from ktqueue.rank import rank
from ktqueue.room import Room
from ktqueue.store.base import IdempotencyKey, JobQuery
from tests.support.scene import MODEL, Scene, ended, submission

KEY = IdempotencyKey("key", "digest")
FINAL = JobError("bad", "never", retryable=False)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def finish(scene: Scene, job: Job) -> Job:
    """Run a job to its success."""
    claimed = {claim.id: claim for claim in scene.claim()}
    scene.execution.settle([scene.execution.success(claimed[job.id], {"ok": True}, None, 1)])
    return scene.row(job)


def fail(scene: Scene, job: Job) -> Job:
    claimed = {claim.id: claim for claim in scene.claim()}
    scene.execution.settle([scene.execution.failure(claimed[job.id], FINAL)])
    return scene.row(job)


# --- submit ----------------------------------------------------------------------------------------------------


def test_an_accepted_job_is_committed_in_its_lane_and_rung_for(scene: Scene) -> None:
    job, new = scene.intake.submit(submission(priority=7, metadata={"a": "b"}, max_attempts=2))

    assert new
    assert scene.row(job) == job
    assert (job.state, job.priority, job.max_attempts, job.metadata) == (JobState.QUEUED, 7, 2, {"a": "b"})
    assert job.rank == rank(scene.clock.now())
    assert scene.waiting() == [job.id]
    assert scene.bells == [MODEL]


def test_a_job_that_is_not_committed_is_not_accepted(scene: Scene) -> None:
    scene.sql.go("add", "add_once")

    for key in (None, KEY):
        with pytest.raises(StoreUnavailable):
            scene.intake.submit(submission(), key)
    assert scene.true_store.census() == []
    assert scene.waiting() == []


def test_a_group_is_committed_whole_or_not_at_all(scene: Scene) -> None:
    scene.sql.go("add")
    with pytest.raises(StoreUnavailable):
        scene.intake.submit_many([submission(), submission()])
    assert scene.true_store.census() == []

    scene.sql.come_back()
    jobs = scene.intake.submit_many([submission(), submission(model="other")])
    assert [scene.row(job).model for job in jobs] == [MODEL, "other"]
    assert sorted(scene.bells) == [MODEL, "other"]


def test_without_redis_a_job_is_accepted_and_the_sweep_enqueues_it(scene: Scene) -> None:
    scene.redis.go()
    job = scene.submit()
    assert scene.row(job).state is JobState.QUEUED
    assert scene.waiting() == []

    scene.redis.come_back()
    assert scene.sweep().requeued == 1
    assert scene.waiting() == [job.id]


def test_a_job_for_later_is_in_no_lane_yet(scene: Scene) -> None:
    later = scene.clock.now() + 10_000
    job = scene.submit(run_at=later)

    assert job.run_at == later
    assert job.rank == rank(later)
    assert scene.waiting() == []


@given(late_ms=st.integers(0, 10_000))
def test_a_time_that_has_come_is_now(late_ms: int) -> None:
    scene = Scene()
    job = scene.submit(run_at=scene.clock.now() - late_ms)

    assert job.run_at is None
    assert scene.waiting() == [job.id]


def test_a_deadline_counts_from_now(scene: Scene) -> None:
    assert scene.submit(deadline_s=1.5).deadline_at == scene.clock.now() + 1500


# --- idempotency -----------------------------------------------------------------------------------------------


def test_one_key_is_one_job(scene: Scene) -> None:
    job, new = scene.intake.submit(submission(), KEY)
    again, anew = scene.intake.submit(submission(), KEY)

    assert (new, anew) == (True, False)
    assert again == scene.row(job)
    assert scene.waiting() == [job.id]


def test_a_replay_tells_the_job_as_it_now_is(scene: Scene) -> None:
    job, _ = scene.intake.submit(submission(), KEY)
    finish(scene, job)

    again, _ = scene.intake.submit(submission(), KEY)
    assert again.state is JobState.SUCCEEDED


def test_a_key_is_for_one_request(scene: Scene) -> None:
    job, _ = scene.intake.submit(submission(), KEY)

    with pytest.raises(IdempotencyMismatch) as refusal:
        scene.intake.submit(submission(), IdempotencyKey("key", "another digest"))
    assert refusal.value.field == "Idempotency-Key"
    assert scene.waiting() == [job.id]


def test_a_replay_finds_its_job_in_a_lane_that_is_full() -> None:
    scene = Scene(max_queued=1)
    job, _ = scene.intake.submit(submission(), KEY)

    assert scene.intake.submit(submission(), KEY) == (job, False)
    with pytest.raises(IdempotencyMismatch):
        scene.intake.submit(submission(), IdempotencyKey("key", "another digest"))
    for key in (None, IdempotencyKey("new", "digest")):
        with pytest.raises(QueueFull):
            scene.intake.submit(submission(), key)


def test_an_answer_lost_on_its_way_is_repeated_under_the_same_key(scene: Scene) -> None:
    scene.sql.too_late = True
    scene.sql.go("add_once")
    with pytest.raises(StoreUnavailable):
        scene.intake.submit(submission(), KEY)
    scene.sql.come_back()
    again, new = scene.intake.submit(submission(), KEY)

    assert not new
    assert [job.id for job in scene.intake.search(JobQuery())] == [again.id]
    scene.sweep()
    assert scene.waiting() == [again.id]


# --- look ------------------------------------------------------------------------------------------------------


def test_there_is_no_job_of_that_name(scene: Scene) -> None:
    for ask in (scene.intake.get, scene.intake.cancel, scene.intake.retry, scene.intake.delete):
        with pytest.raises(NotFound, match="there is no job job_x"):
            ask("job_x")


def test_a_waiting_job_knows_its_place_and_with_a_pace_its_time(scene: Scene) -> None:
    jobs = [scene.submit(priority=priority) for priority in (9, 5, 0)]
    assert [scene.intake.place(job) for job in jobs] == [Place(0), Place(1), Place(2)]

    scene.true_lanes.count_finished(MODEL, ended(10))
    rate = scene.true_lanes.view(MODEL).rate
    assert rate is not None
    assert scene.intake.place(jobs[2]) == Place(2, 3 / rate)


def test_an_unknown_place_is_told_as_unknown(scene: Scene) -> None:
    waiting, scheduled = scene.submit(), scene.submit(run_at=scene.clock.now() + 1000)
    assert scene.intake.place(scheduled) == Place()
    assert scene.intake.place(scene.claim()[0]) == Place()
    assert scene.intake.place(waiting) == Place()

    scene.redis.go()
    assert scene.intake.place(waiting) == Place()


def test_progress_is_what_the_engine_told_last(scene: Scene) -> None:
    job = scene.submit()
    assert scene.intake.progress(job) is None
    [running] = scene.claim()
    assert scene.intake.progress(running) is None

    scene.execution.publish([Event(job.id, EventId(1, 3), "progress", {"progress": 0.75})])
    assert scene.intake.progress(running) == 0.75
    scene.redis.go()
    assert scene.intake.progress(running) is None


def test_lanes_are_seen_from_both_sides(scene: Scene) -> None:
    for _ in range(3):
        scene.submit()
    scene.claim(1)
    scene.clock.sleep(2)
    scene.execution.tell_room(MODEL, Room(4))

    assert scene.intake.lanes([MODEL, "idle"]) == [
        LaneStatus(MODEL, depth=2, running=1, rate=None, oldest_wait_s=2.0, room=Room(4)),
        LaneStatus("idle", depth=0, running=0, rate=None, oldest_wait_s=None, room=None),
    ]


def test_however_many_lanes_there_are_redis_is_asked_three_times(scene: Scene) -> None:
    scene.intake.lanes([f"lane-{number}" for number in range(20)])

    assert scene.redis.calls.total() == 3


def test_a_ping_says_which_part_is_away(scene: Scene) -> None:
    assert scene.intake.ping() == {"database": "ok", "redis": "ok"}
    scene.redis.go()
    assert scene.intake.ping() == {"database": "ok", "redis": "ping did not answer"}
    scene.sql.go()
    assert scene.intake.ping()["database"] == "ping did not answer"


# --- cancel ----------------------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_out_of_its_lane(scene: Scene) -> None:
    job = scene.submit()
    cancelled = scene.intake.cancel(job.id)

    assert cancelled == scene.row(job)
    assert cancelled.state is JobState.CANCELLED
    assert scene.waiting() == []
    assert [(event.id, event.data) for event in scene.told(job)] == [(EventId(0, END), {"state": "cancelled"})]


def test_a_running_job_is_cancelled_and_its_slot_is_told(scene: Scene) -> None:
    job = scene.submit()
    scene.claim()

    assert scene.intake.cancel(job.id).state is JobState.CANCELLED
    assert scene.true_lanes.cancels(MODEL, "")[0] == [job.id]
    assert scene.told(job)[-1].id == EventId(1, END)


def test_cancelling_twice_is_cancelling_once(scene: Scene) -> None:
    job = scene.submit()
    scene.claim()

    assert scene.intake.cancel(job.id) == scene.intake.cancel(job.id)
    assert scene.true_lanes.cancels(MODEL, "")[0] == [job.id]


def test_what_has_ended_stays_as_it_ended(scene: Scene) -> None:
    done = finish(scene, scene.submit())

    assert scene.intake.cancel(done.id) == done


def test_a_cancel_without_redis_holds_all_the_same(scene: Scene) -> None:
    job = scene.submit()
    scene.redis.go()

    assert scene.intake.cancel(job.id).state is JobState.CANCELLED
    scene.redis.come_back()
    assert scene.claim() == []


# --- retry and delete ------------------------------------------------------------------------------------------


def test_a_retry_is_a_new_job_like_the_failed_one(scene: Scene) -> None:
    old = fail(scene, scene.submit(priority=8, deadline_s=30, metadata={"a": "b"}, max_attempts=2))
    scene.clock.sleep(5)
    job = scene.intake.retry(old.id)

    assert job.id != old.id
    assert (job.retry_of, job.state, job.attempt, job.error) == (old.id, JobState.QUEUED, 0, None)
    for name in ("model", "task", "input", "params", "priority", "max_attempts", "metadata"):
        assert getattr(job, name) == getattr(old, name)
    deadline_at = scene.clock.now() + 30_000
    assert (job.rank, job.deadline_at) == (rank(scene.clock.now(), deadline_at), deadline_at)
    assert scene.waiting() == [job.id]
    assert scene.row(old) == old


def test_only_a_failed_job_is_retried(scene: Scene) -> None:
    job = scene.submit()
    with pytest.raises(Conflict, match=f"only a failed job can be retried; {job.id} is queued"):
        scene.intake.retry(job.id)
    finish(scene, job)
    with pytest.raises(Conflict, match="is succeeded"):
        scene.intake.retry(job.id)


def test_only_what_has_ended_is_deleted(scene: Scene) -> None:
    job = scene.submit()
    with pytest.raises(Conflict, match=f"only a job that has ended can be deleted; {job.id} is queued"):
        scene.intake.delete(job.id)

    finish(scene, job)
    scene.intake.delete(job.id)
    with pytest.raises(NotFound):
        scene.intake.get(job.id)
