"""The drain loop in good times: jobs join and leave the batch, cancels and leases are heeded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ktqueue.events.base import END, EventId
from ktqueue.history import history
from ktqueue.job import Job, JobState, Usage
from ktqueue.room import Room
from tests.support.draining import STEP_S, job_of, runner, states, toy
from tests.support.scene import LEASE_MS, MODEL, Scene
from tests.support.toy import ERRORS, ToyEngine
from worker.engines.base import Delta, Output
from worker.runner import PAUSE_S, ROOM_S


@pytest.fixture
def scene() -> Scene:
    return Scene()


# --- the batch -------------------------------------------------------------------------------------------------


def test_a_lane_is_drained_to_its_end(scene: Scene) -> None:
    jobs = [job_of(scene, steps) for steps in (3, 1, 2, 5, 1, 4, 2)]
    engine = toy(scene)

    assert runner(scene, engine).drain() == 7
    assert states(scene, jobs) == [JobState.SUCCEEDED] * 7
    assert engine.members == []


def test_an_engine_is_told_whose_a_request_is(scene: Scene) -> None:
    scene.submit(tenant="b")
    engine = toy(scene)
    runner(scene, engine).drain()
    assert engine.tenants == {"b"}


def test_an_empty_lane_costs_no_step(scene: Scene) -> None:
    engine = toy(scene)

    assert runner(scene, engine).drain() == 0
    assert engine.steps == 0


def test_a_place_that_is_free_is_taken_at_the_next_step(scene: Scene) -> None:
    long, short, waiting = job_of(scene, 5), job_of(scene, 1), job_of(scene, 2)
    seen: list[list[str]] = []
    engine = ToyEngine(2, each_step=lambda: seen.append(engine.members))
    runner(scene, engine).drain()

    assert seen == [[long.id, short.id], [long.id, waiting.id], [long.id, waiting.id], [long.id], [long.id]]
    assert [scene.row(job).largest_batch for job in (long, short, waiting)] == [2, 2, 2]


def test_one_that_comes_while_the_batch_runs_joins_it(scene: Scene) -> None:
    first, late = job_of(scene, 4), list[Job]()
    engine = toy(scene, at={2: lambda: late.append(job_of(scene, 1))})

    assert runner(scene, engine).drain() == 2
    assert engine.steps == 4
    assert states(scene, [first, *late]) == [JobState.SUCCEEDED] * 2


def test_a_bell_that_was_heard_lets_the_next_one_ring(scene: Scene) -> None:
    job_of(scene, 2)
    runner(scene, toy(scene, at={1: lambda: job_of(scene)})).drain()

    assert scene.bells == [MODEL, MODEL]


def test_no_more_is_claimed_than_fits(scene: Scene) -> None:
    for _ in range(20):
        job_of(scene, 3)
    held: list[int] = []
    engine = ToyEngine(4, each_step=lambda: held.append(scene.true_store.census()[0].running))
    runner(scene, engine).drain()

    assert engine.largest == 4
    assert max(held) == 4


def test_a_bad_member_fails_alone(scene: Scene) -> None:
    good, bad, other = job_of(scene, 3), job_of(scene, 1, "permanent"), job_of(scene, 2)
    runner(scene, toy(scene)).drain()

    assert states(scene, [good, bad, other]) == [JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]
    assert scene.row(bad).error == ERRORS["permanent"]


def test_a_passing_failure_goes_back_for_later(scene: Scene) -> None:
    job = job_of(scene, 1, "retryable", max_attempts=2)
    runner(scene, toy(scene)).drain()
    row = scene.row(job)

    assert (row.state, row.attempt) == (JobState.QUEUED, 1)
    assert row.run_at is not None
    assert row.run_at > scene.clock.now()


def test_one_that_the_engine_declines_waits_in_its_lane_uncharged(scene: Scene) -> None:
    declined, other = job_of(scene, fail="decline"), job_of(scene, 3)
    engine = toy(scene)

    assert runner(scene, engine).drain() == 2
    assert states(scene, [declined, other]) == [JobState.QUEUED, JobState.SUCCEEDED]
    assert (scene.row(declined).attempt, scene.row(declined).claims) == (0, 1)
    assert scene.waiting() == [declined.id]


def test_one_that_was_declined_is_not_asked_for_again_at_once(scene: Scene) -> None:
    declined = job_of(scene, fail="decline")
    draining = runner(scene, toy(scene))

    assert [draining.drain() for _ in range(3)] == [1, 0, 0]
    scene.clock.sleep(PAUSE_S)
    assert draining.drain() == 1
    assert scene.row(declined).claims == 2


def test_followers_see_it_run(scene: Scene) -> None:
    job = job_of(scene, 4)
    runner(scene, toy(scene)).drain()

    events = scene.told(job)
    assert [event.id for event in events] == [EventId(1, offset) for offset in (0, 1, 2, 3, END)]
    assert "".join(event.data["text"] for event in events[1:-1]) == "abc" == (scene.row(job).result or {})["text"]
    assert [event.id for event in history(scene.row(job), EventId(1, 2))] == [EventId(1, 3), EventId(1, END)]


class TwoChoices(ToyEngine):
    """Writes the same text twice, letter by letter in turn."""

    def step(self) -> list[Output]:
        outputs: list[Output] = []
        for output in super().step():
            if isinstance(output, Delta):
                outputs.append(replace(output, told=2 * output.told - 1))
                outputs.append(replace(output, told=2 * output.told, choice=1))
            else:
                outputs.append(output)
        return outputs


def test_followers_see_which_choice_grows(scene: Scene) -> None:
    job = scene.submit(params={"steps": 3, "n": 2})
    runner(scene, TwoChoices()).drain()

    events = scene.told(job)
    assert [event.id for event in events] == [EventId(1, offset) for offset in (0, 1, 2, 3, 4, END)]
    told = [(event.data["choice"], event.data["text"], event.data["offset"]) for event in events[1:-1]]
    assert told == [(0, "a", 0), (1, "a", 0), (0, "b", 1), (1, "b", 1)]


# --- cancels and leases ----------------------------------------------------------------------------------------


def test_a_cancelled_member_is_out_of_the_batch_by_the_next_step(scene: Scene) -> None:
    job, other = job_of(scene, 9), job_of(scene, 5)
    seen: list[list[str]] = []
    engine = ToyEngine(2, at={3: lambda: scene.intake.cancel(job.id)}, each_step=lambda: seen.append(engine.members))
    runner(scene, engine).drain()

    assert engine.cancelled == [job.id]
    assert [job.id in members for members in seen] == [True, True, True, False, False]
    assert states(scene, [job, other]) == [JobState.CANCELLED, JobState.SUCCEEDED]
    assert scene.told(job)[-1].id == EventId(1, END)


def test_the_place_of_a_cancelled_member_is_taken_at_once(scene: Scene) -> None:
    job, waiting = job_of(scene, 100), job_of(scene, 1)
    engine = toy(scene, 1, at={3: lambda: scene.intake.cancel(job.id)})
    runner(scene, engine).drain()

    assert engine.submitted == [job.id, waiting.id]
    assert engine.steps <= 5


def test_a_job_that_ends_in_the_step_in_which_it_is_cancelled_stays_cancelled(scene: Scene) -> None:
    job = job_of(scene, 2)
    runner(scene, toy(scene, at={2: lambda: scene.intake.cancel(job.id)})).drain()

    assert scene.row(job).state is JobState.CANCELLED
    assert scene.row(job).result is None


def test_a_cancel_of_an_older_claim_does_not_drop_the_newer(scene: Scene) -> None:
    job = job_of(scene, 4)
    engine = toy(scene, at={2: lambda: scene.true_lanes.ask_cancel(MODEL, [job.id])})
    runner(scene, engine).drain()

    assert engine.cancelled == []
    assert scene.row(job).state is JobState.SUCCEEDED


def test_cancels_of_the_time_before_are_not_looked_at_again(scene: Scene) -> None:
    job = job_of(scene, 3)
    scene.true_lanes.ask_cancel(MODEL, [job.id])
    runner(scene, toy(scene)).drain()

    assert scene.sql.calls["renew"] == 0


def test_a_job_leaves_at_its_deadline_with_what_there_is(scene: Scene) -> None:
    late, other = job_of(scene, 9, deadline_s=3.0), job_of(scene, 5, deadline_s=60.0)
    engine = ToyEngine(each_step=lambda: scene.clock.sleep(1.0))
    runner(scene, engine).drain()

    assert engine.cancelled == [late.id]
    assert states(scene, [late, other]) == [JobState.EXPIRED, JobState.SUCCEEDED]
    row = scene.row(late)
    assert row.result == {"text": "abc", "finish_reason": "deadline"}
    assert (row.usage, row.error) == (Usage(1, 3), None)
    assert scene.told(late)[-1].data == {"state": "expired"}


def test_a_deadline_that_can_not_be_told_waits(scene: Scene) -> None:
    job = job_of(scene, 9, deadline_s=2.0)
    away = {2: lambda: scene.sql.go("now"), 5: scene.sql.come_back}
    runner(scene, ToyEngine(at=away, each_step=lambda: scene.clock.sleep(1.0))).drain()

    row = scene.row(job)
    assert (row.state, row.result) == (JobState.EXPIRED, {"text": "abcde", "finish_reason": "deadline"})


def test_leases_are_renewed_while_jobs_run(scene: Scene) -> None:
    job = job_of(scene, 20)

    def a_second() -> None:
        scene.clock.sleep(1.0)
        scene.sweep()

    runner(scene, ToyEngine(each_step=a_second)).drain()

    assert (scene.row(job).state, scene.row(job).attempt) == (JobState.SUCCEEDED, 1)


def test_a_lost_lease_drops_the_member(scene: Scene) -> None:
    job, other = job_of(scene, 9), job_of(scene, 5)

    def lose_one() -> None:
        scene.true_store.renew(scene.row(job).token or "", [job.id], lease_ms=0)
        scene.sweep()

    engine = toy(scene, at={2: lose_one})
    runner(scene, engine).drain()

    assert engine.cancelled == [job.id]
    assert engine.submitted == [job.id, other.id, job.id]
    assert states(scene, [job, other]) == [JobState.SUCCEEDED] * 2
    assert (scene.row(job).attempt, scene.row(job).claims) == (1, 2)


def test_a_job_that_comes_again_while_it_is_held_starts_again(scene: Scene) -> None:
    job = job_of(scene, 5)

    def lose_it_and_wake_it() -> None:
        scene.clock.sleep(LEASE_MS / 1000)
        scene.sweep()
        scene.sql.go("renew")  # so that the runner can't learn of it before the job is there again

    engine = toy(scene, at={3: lose_it_and_wake_it, 4: scene.sql.come_back})
    assert runner(scene, engine).drain() == 2

    assert engine.submitted == [job.id, job.id]
    assert engine.cancelled == [job.id]
    row = scene.row(job)
    assert (row.state, row.attempt, row.claims) == (JobState.SUCCEEDED, 1, 2)
    assert (row.result or {})["text"] == "abcd"
    assert scene.told(job)[-1].id == EventId(2, END)


# --- what it holds ---------------------------------------------------------------------------------------------


def test_a_drain_tells_what_its_engine_holds(scene: Scene) -> None:
    runner(scene, toy(scene, 3)).drain()

    assert scene.true_lanes.rooms([MODEL]) == {MODEL: Room(3)}


def test_what_it_holds_is_told_again_no_more_often_than_needed(scene: Scene) -> None:
    draining = runner(scene, toy(scene))
    draining.tell_room()
    for _ in range(5):
        draining.drain()
    assert scene.redis.calls["tell_room"] == 1

    scene.clock.sleep(ROOM_S)
    for _ in range(5):
        draining.drain()
    assert scene.redis.calls["tell_room"] == 2


def test_a_drain_that_does_not_end_tells_again(scene: Scene) -> None:
    job_of(scene, round(25 / STEP_S))
    runner(scene, toy(scene)).drain()

    assert scene.redis.calls["tell_room"] == 3


def test_nobody_suffers_when_it_can_not_be_told(scene: Scene) -> None:
    job = job_of(scene)
    scene.redis.go("tell_room")
    draining = runner(scene, toy(scene))
    draining.tell_room()
    scene.clock.sleep(ROOM_S)

    assert draining.drain() == 1
    assert states(scene, [job]) == [JobState.SUCCEEDED]
