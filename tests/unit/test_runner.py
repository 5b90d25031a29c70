"""The drain loop, with an engine that does as it is told, and ports that are taken away between two of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from ktqueue.errors import LanesUnavailable, StoreUnavailable
from ktqueue.events.base import END, REQUEUED, EventId
from ktqueue.history import history
from ktqueue.job import Job, JobState
from tests.support.scene import LEASE_MS, MODEL, Scene
from tests.support.toy import ERRORS, ToyEngine
from worker.runner import EngineBroken, Runner

STEP_S = 0.01
HEARTBEAT_S = 2.0
GRACE_S = 5.0


@pytest.fixture
def scene() -> Scene:
    return Scene()


class Stop:
    """Whether a stop was asked."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    def ask(self) -> None:
        self.asked = True


def toy(scene: Scene, capacity: int = 4, at: Mapping[int, Callable[[], object]] | None = None) -> ToyEngine:
    return ToyEngine(capacity, at=at, each_step=lambda: scene.clock.sleep(STEP_S))


def runner(scene: Scene, engine: ToyEngine, stop: Callable[[], bool] = lambda: False) -> Runner:
    return Runner(
        scene.execution,
        engine,
        model=MODEL,
        worker="w",
        heartbeat_s=HEARTBEAT_S,
        grace_s=GRACE_S,
        stopping=stop,
        clock=scene.clock.monotonic,
        sleep=scene.clock.sleep,
    )


def job_of(scene: Scene, steps: int = 1, fail: str | None = None, **given: object) -> Job:
    scene.clock.sleep(0.001)  # ranks, and with them the order, are one millisecond apart
    return scene.submit(params={"steps": steps} | ({"fail": fail} if fail else {}), **given)


def states(scene: Scene, jobs: list[Job]) -> list[JobState]:
    return [scene.row(job).state for job in jobs]


# --- the batch -------------------------------------------------------------------------------------------------


def test_a_lane_is_drained_to_its_end(scene: Scene) -> None:
    jobs = [job_of(scene, steps) for steps in (3, 1, 2, 5, 1, 4, 2)]
    engine = toy(scene)

    assert runner(scene, engine).drain() == 7
    assert states(scene, jobs) == [JobState.SUCCEEDED] * 7
    assert engine.members == []


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


def test_followers_see_it_run(scene: Scene) -> None:
    job = job_of(scene, 4)
    runner(scene, toy(scene)).drain()

    events = scene.told(job)
    assert [event.id for event in events] == [EventId(1, offset) for offset in (0, 1, 2, 3, END)]
    assert "".join(event.data["text"] for event in events[1:-1]) == "abc" == (scene.row(job).result or {})["text"]
    assert [event.id for event in history(scene.row(job), EventId(1, 2))] == [EventId(1, 3), EventId(1, END)]


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
    assert states(scene, [job, other]) == [JobState.QUEUED, JobState.SUCCEEDED]


def test_a_job_that_comes_again_while_it_is_held_starts_again(scene: Scene) -> None:
    job = job_of(scene, 5)

    def lose_it_and_wake_it() -> None:
        scene.clock.sleep(LEASE_MS / 1000)
        scene.sweep()
        scene.clock.sleep(1.0)
        scene.sweep()
        scene.sql.go("renew")  # so that the runner can't learn of it before the job is there again

    engine = toy(scene, at={3: lose_it_and_wake_it, 4: scene.sql.come_back})
    assert runner(scene, engine).drain() == 2

    assert engine.submitted == [job.id, job.id]
    assert engine.cancelled == [job.id]
    row = scene.row(job)
    assert (row.state, row.attempt, row.claims) == (JobState.SUCCEEDED, 2, 2)
    assert (row.result or {})["text"] == "abcd"
    assert scene.told(job)[-1].id == EventId(2, END)


# --- outages ---------------------------------------------------------------------------------------------------


def test_results_wait_for_the_database_and_are_written_once_it_is_back(scene: Scene) -> None:
    jobs = [job_of(scene, 1), job_of(scene, 2), job_of(scene, 3), job_of(scene, 1, "permanent")]
    engine = toy(scene, at={1: scene.sql.go, 9: scene.sql.come_back})
    runner(scene, engine).drain()

    assert states(scene, jobs) == [JobState.SUCCEEDED] * 3 + [JobState.FAILED]
    assert [scene.row(job).attempt for job in jobs] == [1] * 4


def test_results_are_not_lost_to_a_lane_with_more_in_it(scene: Scene) -> None:
    first, second = job_of(scene, 1), job_of(scene, 1)
    engine = toy(scene, 1, at={1: scene.sql.go, 4: scene.sql.come_back})
    runner(scene, engine).drain()

    assert engine.submitted == [first.id, second.id]
    assert states(scene, [first, second]) == [JobState.SUCCEEDED] * 2


def test_the_lane_is_not_emptied_into_nothing_while_the_database_is_away(scene: Scene) -> None:
    job_of(scene, 500)
    for _ in range(100):
        job_of(scene, 1)
    left: list[int] = []
    engine = toy(scene, 2, at={2: scene.sql.go, 50: lambda: left.append(len(scene.waiting())), 51: scene.sql.come_back})
    runner(scene, engine).drain()

    assert left[0] > 90


def test_a_failure_without_a_database_is_decided_when_it_is_back(scene: Scene) -> None:
    job = job_of(scene, 1, "retryable")
    engine = toy(scene, at={1: scene.sql.go, 9: scene.sql.come_back})
    runner(scene, engine).drain()
    row = scene.row(job)

    assert row.state is JobState.QUEUED
    assert row.run_at is not None
    assert row.run_at > scene.clock.now()


def test_results_of_a_lost_lease_are_let_go(scene: Scene) -> None:
    job = job_of(scene, 1)

    def come_back_late() -> None:
        scene.clock.sleep(LEASE_MS / 1000)
        scene.sql.come_back()
        scene.sweep()
        scene.sql.go("finish")

    engine = toy(scene, at={1: lambda: scene.sql.go("finish"), 5: come_back_late})
    runner(scene, engine).drain()

    assert (scene.row(job).state, scene.row(job).result) == (JobState.QUEUED, None)


def test_a_batch_goes_on_without_redis(scene: Scene) -> None:
    jobs = [job_of(scene, steps) for steps in (1, 2, 30)]
    engine = toy(scene, at={1: scene.redis.go})
    runner(scene, engine).drain()

    assert states(scene, jobs) == [JobState.SUCCEEDED] * 3


@pytest.mark.parametrize(("port", "error"), [("redis", LanesUnavailable), ("sql", StoreUnavailable)])
def test_with_nothing_held_an_outage_ends_the_drain(scene: Scene, port: str, error: type[Exception]) -> None:
    job_of(scene)
    getattr(scene, port).go()

    with pytest.raises(error):
        runner(scene, toy(scene)).drain()


def test_a_broken_engine_fails_every_attempt_in_it(scene: Scene) -> None:
    again, last = job_of(scene), job_of(scene, max_attempts=1)
    with pytest.raises(EngineBroken, match="RuntimeError: the device is lost"):
        runner(scene, ToyEngine(works=False)).drain()

    assert states(scene, [again, last]) == [JobState.QUEUED, JobState.FAILED]
    error = scene.row(last).error
    assert error is not None
    assert (error.code, error.message) == ("engine_error", "the engine failed: RuntimeError")
    assert scene.told(again)[-1].id == EventId(1, REQUEUED)


def test_what_a_broken_engine_held_comes_back_by_its_lease_if_the_database_is_away_too(scene: Scene) -> None:
    job = job_of(scene)
    engine = ToyEngine(works=False, at={1: scene.sql.go})
    with pytest.raises(EngineBroken):
        runner(scene, engine).drain()
    scene.sql.come_back()
    scene.clock.sleep(LEASE_MS / 1000)
    scene.sweep()

    assert scene.row(job).state is JobState.QUEUED


# --- stop ------------------------------------------------------------------------------------------------------


def test_a_stop_finishes_what_fits_and_gives_back_the_rest(scene: Scene) -> None:
    short, long, waiting = job_of(scene, 10), job_of(scene, 100_000), job_of(scene, 1)
    stop = Stop()
    engine = toy(scene, 2, at={3: stop.ask})
    runner(scene, engine, stop).drain()

    assert states(scene, [short, long, waiting]) == [JobState.SUCCEEDED, JobState.QUEUED, JobState.QUEUED]
    assert (scene.row(long).attempt, scene.row(long).claims) == (0, 1)
    assert scene.waiting() == [long.id, waiting.id]
    assert engine.cancelled == [long.id]
    assert engine.submitted == [short.id, long.id]


def test_after_a_stop_nothing_is_claimed(scene: Scene) -> None:
    job, stop = job_of(scene), Stop()
    stop.ask()

    assert runner(scene, toy(scene), stop).drain() == 0
    assert scene.row(job).claims == 0


def test_a_stop_waits_for_the_database_no_longer_than_its_grace(scene: Scene) -> None:
    job_of(scene, 1)
    stop = Stop()

    def stop_in_an_outage() -> None:
        stop.ask()
        scene.sql.go()

    began = scene.clock.monotonic()
    runner_ = runner(scene, toy(scene, at={1: stop_in_an_outage}), stop)
    with pytest.raises(StoreUnavailable):
        runner_.drain()
    assert scene.clock.monotonic() - began < GRACE_S + 1


def test_a_runner_drains_again_after_an_outage(scene: Scene) -> None:
    job = job_of(scene)
    one = runner(scene, toy(scene))
    scene.sql.go("claim")
    with pytest.raises(StoreUnavailable):
        one.drain()
    scene.sql.come_back()
    scene.sweep()

    assert one.drain() == 1
    assert scene.row(job).state is JobState.SUCCEEDED
