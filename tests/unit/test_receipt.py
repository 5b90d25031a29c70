"""Receipts: what a job waited, ran and had of the steps, attempt by attempt."""

from __future__ import annotations

import math

import pytest

from ktqueue.job import Attempt, Job, JobState, Outcome, Ride, Task
from ktqueue.receipt import receipt_of
from tests.support.draining import STEP_S, Stop, job_of, runner, toy
from tests.support.scene import Scene
from tests.support.toy import ToyEngine
from worker.runner import EngineBroken

JOB = Job("job_a", "m", Task.ECHO, {}, {}, created_at=1_000, rank=0.0)


def attempt(claim: int, started_at: int, ended_at: int | None, device_s: float | None = None) -> Attempt:
    return Attempt(claim, claim, charged=True, worker="w", started_at=started_at, ended_at=ended_at,
                   outcome=Outcome.FAILED, device_s=device_s)  # fmt: skip


def test_one_that_waits_has_only_waited() -> None:
    receipt = receipt_of(JOB, [], now=3_500)
    assert (receipt.legs, receipt.queued_ms, receipt.run_ms, receipt.device_s) == ([], 2_500, 0, 0.0)


def test_each_attempt_has_its_own_wait() -> None:
    tried = [attempt(1, 1_200, 2_000, 0.5), attempt(2, 5_000, 5_100), attempt(3, 6_000, None)]
    receipt = receipt_of(JOB, tried, now=6_400)

    assert [(leg.queued_ms, leg.run_ms) for leg in receipt.legs] == [(200, 800), (3_000, 100), (900, 400)]
    assert (receipt.queued_ms, receipt.run_ms, receipt.device_s) == (4_100, 1_300, 0.5)


def test_no_clock_that_is_set_back_makes_a_wait_negative() -> None:
    receipt = receipt_of(JOB, [attempt(1, 900, 800)], now=700)
    assert (receipt.legs[0].queued_ms, receipt.legs[0].run_ms, receipt.queued_ms) == (0, 0, 0)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_drain_tells_of_each_job_with_how_many_it_shared_its_steps(scene: Scene) -> None:
    long, short = job_of(scene, 4), job_of(scene, 2)
    runner(scene, toy(scene)).drain()

    assert scene.row(long).ride == Ride(4, 1, 1.5, 2)
    assert scene.row(short).ride == Ride(2, 2, 2.0, 2)


def test_what_an_attempt_had_that_was_not_the_last_is_kept_and_not_billed(scene: Scene) -> None:
    again = job_of(scene, 3, "retryable", max_attempts=2)
    runner(scene, toy(scene)).drain()
    (first,) = scene.intake.attempts(again.id)
    assert (first.outcome, first.ride) == (Outcome.FAILED, Ride(3, 1, 1.0, 1))
    assert math.isclose(first.device_s or 0, 3 * STEP_S, rel_tol=1e-4)
    assert scene.row(again).device_s is None

    scene.clock.sleep(60)
    scene.sweep()
    stop = Stop()
    runner(scene, ToyEngine(each_step=lambda: scene.clock.sleep(10.0), at={1: stop.ask}), stop).drain()
    receipt = scene.intake.receipt(again.id)
    assert [leg.attempt.outcome for leg in receipt.legs] == [Outcome.FAILED, Outcome.GIVEN_BACK]
    assert receipt.legs[1].attempt.ride == Ride(2, 1, 1.0, 1)
    assert math.isclose(receipt.device_s, 3 * STEP_S + 20.0, rel_tol=1e-4)


def test_those_that_were_in_an_engine_that_broke_know_what_they_had(scene: Scene) -> None:
    job, other = job_of(scene, 9), job_of(scene, 9)
    engine = ToyEngine(each_step=lambda: scene.clock.sleep(1.0), at={3: lambda: 1 / 0})
    with pytest.raises(EngineBroken):
        runner(scene, engine).drain()

    for each in (job, other):
        (crashed,) = scene.intake.attempts(each.id)
        assert (crashed.outcome, crashed.device_s, crashed.ride) == (Outcome.CRASHED, 1.0, Ride(2, 2, 2.0, 2))


def test_one_that_was_cancelled_has_no_steps_that_anybody_told(scene: Scene) -> None:
    job = job_of(scene, 5)
    runner(scene, toy(scene, at={2: lambda: scene.intake.cancel(job.id)})).drain()
    (leg,) = scene.intake.receipt(job.id).legs

    assert scene.row(job).state is JobState.CANCELLED
    assert (leg.attempt.device_s, leg.attempt.ride) == (None, None)
