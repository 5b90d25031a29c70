"""The drain loop in bad times: parts are taken away between two of its steps, the engine breaks, a stop is asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ktqueue.blame import FREE
from ktqueue.errors import LanesUnavailable, StoreUnavailable
from ktqueue.events.base import REQUEUED, EventId
from ktqueue.job import ENGINE_CRASHED, Job, JobState
from tests.support.draining import GRACE_S, STEP_S, Stop, job_of, runner, states, toy
from tests.support.scene import LEASE_MS, Scene
from tests.support.toy import ToyEngine
from worker.runner import EngineBroken


@pytest.fixture
def scene() -> Scene:
    return Scene()


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
        scene.claim(token="another's")
        scene.sql.go("finish")

    engine = toy(scene, at={1: lambda: scene.sql.go("finish"), 5: come_back_late})
    runner(scene, engine).drain()

    row = scene.row(job)
    assert (row.state, row.token, row.result) == (JobState.RUNNING, "another's", None)


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


def test_what_a_broken_engine_held_is_run_again_and_not_charged(scene: Scene) -> None:
    jobs = [job_of(scene), job_of(scene, max_attempts=1)]
    for company in (*[None] * FREE, 1):
        with pytest.raises(EngineBroken, match="RuntimeError: the device is lost"):
            runner(scene, ToyEngine(works=False)).drain()
        rows = [scene.row(job) for job in jobs]
        assert [(row.state, row.attempt, row.company) for row in rows] == [(JobState.QUEUED, 0, company)] * 2

    assert scene.told(jobs[0])[-1].id == EventId(FREE + 1, REQUEUED)


def test_an_engine_that_a_job_breaks_on_its_own_fails_it(scene: Scene) -> None:
    job = job_of(scene, max_attempts=1)
    for _ in range(FREE + 1):
        with pytest.raises(EngineBroken):
            runner(scene, ToyEngine(works=False)).drain()

    assert (scene.row(job).state, scene.row(job).error) == (JobState.FAILED, ENGINE_CRASHED)


def poisoned(scene: Scene, count: int) -> tuple[list[Job], Job]:
    """Jobs of which one breaks every engine that it is in."""
    jobs = [job_of(scene, 1, "crash" if n == count // 2 else None) for n in range(count)]
    return [job for job in jobs if "fail" not in job.params], jobs[count // 2]


def live_through(scene: Scene, capacity: int) -> int:
    """One process after the other, until nothing waits; how many of them broke."""

    def crash() -> None:
        raise RuntimeError("a kernel fault")

    broken = 0
    for _ in range(100):
        engine = ToyEngine(capacity, each_step=lambda: scene.clock.sleep(STEP_S), crash=crash)
        try:
            runner(scene, engine).drain()
        except EngineBroken:
            broken += 1
        scene.clock.sleep(1.0)
        scene.sweep()
        if not scene.true_store.census():
            break
    return broken


def test_one_poison_job_among_63_good_ones_fails_alone(scene: Scene) -> None:
    good, poison = poisoned(scene, 64)

    broken = live_through(scene, 64)

    assert set(states(scene, good)) == {JobState.SUCCEEDED}
    assert {scene.row(job).attempt for job in good} == {1}
    assert (scene.row(poison).state, scene.row(poison).error) == (JobState.FAILED, ENGINE_CRASHED)
    assert scene.row(poison).attempt == 3
    assert broken == FREE + 5
    assert [each.charged for each in scene.intake.attempts(poison.id)] == [False] * (FREE + 2) + [True] * 3


def test_suspects_have_the_engine_to_themselves(scene: Scene) -> None:
    _, poison = poisoned(scene, 4)
    for _ in range(FREE + 1):
        with pytest.raises(EngineBroken):
            runner(scene, ToyEngine(works=False)).drain()
    later = [job_of(scene, 2) for _ in range(3)]
    crowds: list[list[str]] = []
    engine = ToyEngine(4, each_step=lambda: crowds.append(engine.members), crash=lambda: None)
    runner(scene, engine).drain()

    assert [poison.id] in crowds
    assert sorted(map(len, crowds)) == [1, 1, 1, 1, 3, 3]
    assert set(states(scene, later)) == {JobState.SUCCEEDED}


def test_suspects_wait_until_the_batch_has_run_out(scene: Scene) -> None:
    long = job_of(scene, 300)
    late: list[Job] = []

    def a_neighbour_dies() -> None:
        late.append(job_of(scene))
        [claimed] = scene.claim(token="another's")
        scene.execution.give_back([replace(claimed, company=1)])

    def one_more() -> None:
        late.append(job_of(scene))

    crowds: list[list[str]] = []

    def look() -> None:
        crowds.append(engine.members)
        scene.clock.sleep(STEP_S)

    engine = ToyEngine(4, at={2: a_neighbour_dies, 200: one_more}, each_step=look)
    runner(scene, engine).drain()

    assert states(scene, [long, *late]) == [JobState.SUCCEEDED] * 3
    assert [late[0].id] in crowds
    assert all(len(crowd) == 1 for crowd in crowds)


def test_a_result_that_cannot_be_stored_fails_alone(scene: Scene) -> None:
    odd, good = job_of(scene, 1), job_of(scene, 1)
    engine = toy(scene)
    engine.answer_with(odd.id, {"text": object()})
    runner(scene, engine).drain()

    assert states(scene, [odd, good]) == [JobState.FAILED, JobState.SUCCEEDED]
    error = scene.row(odd).error
    assert error is not None
    assert error.code == "engine_error"


def test_a_slow_engine_gets_leases_that_outlast_its_steps(scene: Scene) -> None:
    job = job_of(scene, 4)
    late = [LEASE_MS / 1000 + 2]
    engine = ToyEngine(4, each_step=lambda: scene.clock.sleep(late[0]), at={})
    leases: list[int] = []

    def note(_name: str) -> None:
        row = scene.row(job)
        leases.append((row.lease_until or 0) - scene.clock.now())

    scene.sql.before = note
    runner(scene, engine).drain()

    assert max(leases) > late[0] * 1000 + LEASE_MS


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
