"""When a job's turn comes, and who is not taken because it would come too late."""

from __future__ import annotations

import pytest

from ktqueue.errors import TooLate
from ktqueue.foretelling import SAMPLE_S
from ktqueue.job import JobState, Place
from ktqueue.lanes.accuracy import Accuracy, accuracy_of, error_of
from ktqueue.lanes.pace import Service
from tests.support.scene import MODEL, Scene, ended, submission


@pytest.fixture
def scene() -> Scene:
    return Scene()


def serve(scene: Scene, cost_a_second: int, seconds: int = 10) -> None:
    """Let a lane be known to serve so much, runs taking a millisecond for each unit, while a job waits for it."""
    waiting = scene.submit(params={"delay_ms": 1_000}, priority=0)
    for _ in range(seconds):
        scene.clock.sleep(1)
        run = {"estimate": cost_a_second, "cost": cost_a_second, "run_ms": cost_a_second}
        scene.true_lanes.count_finished(MODEL, ended(1, **run))
    scene.intake.cancel(waiting.id)


def test_the_time_until_a_turn_is_the_work_ahead_at_the_speed_of_the_lane(scene: Scene) -> None:
    serve(scene, 500)
    jobs = [scene.submit(params={"delay_ms": 1_000}) for _ in range(4)]

    assert scene.true_lanes.view(MODEL).speed == pytest.approx(500, rel=0.1)
    assert scene.intake.place(jobs[3]).position == 3
    assert scene.intake.place(jobs[3]).eta_s == pytest.approx(6, rel=0.1)


def test_time_in_which_nobody_waited_says_nothing_about_speed() -> None:
    service = Service().ended(0, waiting=True, jobs=1, work=10, run_ms=10, least=1.0)
    busy = service.ended(1_000, waiting=True, jobs=1, work=100, run_ms=10, least=1.0)
    idle = busy.ended(1_000_000, waiting=False, jobs=1, work=1, run_ms=10, least=1.0)
    assert service.speed is None
    assert busy.speed == idle.speed == 100


def test_a_job_that_would_be_late_and_would_rather_not_be_is_refused(scene: Scene) -> None:
    serve(scene, 100)
    for _ in range(20):
        scene.submit(params={"delay_ms": 100}, priority=9)

    with pytest.raises(TooLate) as refusal:
        scene.submit(deadline_s=10, reject_if_late=True, params={"delay_ms": 100})
    assert 10 <= refusal.value.retry_after_s <= 16
    assert scene.submit(deadline_s=10).state is JobState.QUEUED
    assert scene.submit(deadline_s=25, reject_if_late=True).state is JobState.QUEUED


def test_a_deadline_that_is_over_at_once_is_decided_about(scene: Scene) -> None:
    """In a lane that waits for nobody and whose runs take no time, nothing is late, however often it is asked."""
    waiting = scene.submit(priority=0)
    for _ in range(3):
        scene.clock.sleep(1)
        scene.true_lanes.count_finished(MODEL, ended(1, run_ms=0))
    scene.intake.cancel(waiting.id)

    assert scene.submit(deadline_s=0.0005, reject_if_late=True).state is JobState.QUEUED


def test_its_own_run_and_its_own_tenants_order_are_counted(scene: Scene) -> None:
    serve(scene, 1_000)
    for _ in range(20):
        scene.submit(params={"delay_ms": 1_000})

    # It would go before those of its tenant that have no deadline, but runs for a second.
    assert scene.submit(deadline_s=2, reject_if_late=True, params={"delay_ms": 1_000}).state is JobState.QUEUED
    with pytest.raises(TooLate):
        scene.submit(deadline_s=0.5, reject_if_late=True, params={"delay_ms": 1_000})
    assert scene.submit(deadline_s=2, reject_if_late=True, tenant="other").state is JobState.QUEUED


def test_nobody_is_refused_on_a_guess(scene: Scene) -> None:
    for _ in range(5):
        scene.submit()
    assert scene.submit(deadline_s=0.001, reject_if_late=True).state is JobState.QUEUED

    serve(scene, 1)
    scene.redis.go()
    assert scene.submit(deadline_s=0.001, reject_if_late=True).state is JobState.QUEUED


def test_what_was_accepted_once_is_not_refused_when_it_comes_again(scene: Scene) -> None:
    from ktqueue.store.base import IdempotencyKey

    late = submission(deadline_s=1, reject_if_late=True)
    job, _ = scene.intake.submit(late, IdempotencyKey("k", "d"))
    serve(scene, 1)
    for _ in range(20):
        scene.submit(priority=9, params={"delay_ms": 100})

    assert scene.intake.submit(late, IdempotencyKey("k", "d")) == (scene.row(job), False)


def test_what_was_foretold_is_compared_with_what_happened(scene: Scene) -> None:
    serve(scene, 100)
    scene.submit(params={"delay_ms": 1_000})
    scene.clock.sleep(SAMPLE_S)
    scene.submit(params={"delay_ms": 1_000})
    scene.submit(params={"delay_ms": 1_000})
    scene.clock.sleep(20)
    assert scene.intake.lanes([MODEL])[0].accuracy is None
    scene.claim()

    accuracy = scene.intake.lanes([MODEL])[0].accuracy
    assert accuracy is not None
    assert accuracy.jobs == 2
    assert accuracy.p90 <= 1


def test_an_error_is_a_part_of_the_wait() -> None:
    assert error_of(15_000, 10_000) == 0.5
    assert error_of(1_500, 10) == 1.49
    assert error_of(900, 10) is None
    assert accuracy_of([]) is None
    assert accuracy_of([0.25 * n for n in range(10)]) == Accuracy(1.25, 2.25, 10)


def test_an_unknown_place_is_told_as_unknown(scene: Scene) -> None:
    waiting = scene.submit()
    scene.redis.go()

    assert scene.intake.place(waiting) == Place()
