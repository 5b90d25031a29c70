"""A tenant's limit on what runs at once: whose jobs wait, who goes in their place, and who is told when one ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from ktqueue.errors import StoreUnavailable
from ktqueue.job import Job, JobError, JobState
from ktqueue.sweep import CUT_MS
from ktqueue.tenant import DEFAULT_TENANT, Tenant
from ktqueue.watched import FRESH_S
from tests.support.draining import runner, toy
from tests.support.scene import LEASE_MS, MODEL, Scene, ended

OTHER = "other"


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    limit(scene, 1)
    return scene


def limit(scene: Scene, most: int | None, tenant: str = "a") -> None:
    scene.registry.put_tenant(Tenant(tenant, running_jobs=most))
    scene.clock.sleep(FRESH_S)


def claimed(scene: Scene, model: str = MODEL, limit: int = 100, token: str = "t") -> list[Job]:
    return scene.execution.claim(model, limit, token=token, worker=f"worker of {token}")


def all_is_quiet(scene: Scene) -> None:
    """Every bell was heard, and every slot of the other lane has found nothing."""
    scene.execution.answer(MODEL)
    assert claimed(scene) == []
    scene.bells.clear()


def test_others_go_in_place_of_who_has_reached_its_limit(scene: Scene) -> None:
    ours = [scene.submit(tenant="a") for _ in range(3)]
    theirs = [scene.submit(tenant="b") for _ in range(3)]

    assert {job.id for job in claimed(scene)} == {ours[0].id, *(job.id for job in theirs)}
    assert scene.waiting() == [job.id for job in ours[1:]]


def test_a_drain_goes_on_with_the_next_as_soon_as_one_has_ended(scene: Scene) -> None:
    jobs = [scene.submit(tenant="a", params={"steps": 3}) for _ in range(5)]
    engine = toy(scene)

    assert runner(scene, engine).drain() == 5
    assert {scene.row(job).state for job in jobs} == {JobState.SUCCEEDED}


def succeed(scene: Scene, job: Job) -> None:
    scene.execution.settle([scene.execution.success(job, {}, None, 1)])


def fail(scene: Scene, job: Job) -> None:
    scene.execution.settle([scene.execution.failure(job, JobError("no", "no", retryable=False))])


def try_later(scene: Scene, job: Job) -> None:
    scene.execution.settle([scene.execution.failure(job, JobError("no", "no", retryable=True))])


def give_back(scene: Scene, job: Job) -> None:
    scene.execution.give_back([job])


def cancel(scene: Scene, job: Job) -> None:
    scene.intake.cancel(job.id, job.tenant)


def die(scene: Scene, job: Job) -> None:
    scene.dead.add(job.worker or "")
    scene.sweep._recovery.of_the_dead()


def fall_silent(scene: Scene, job: Job) -> None:
    scene.clock.sleep(LEASE_MS / 1000)
    scene.sweep._recovery.of_the_silent()


def run_late(scene: Scene, job: Job) -> None:
    scene.clock.sleep(5 + CUT_MS / 1000)
    scene.sweep._expire_overdue()


@pytest.mark.parametrize("end", [succeed, fail, try_later, give_back, cancel, die, fall_silent, run_late])
def test_however_a_job_ends_the_lanes_in_which_its_tenants_wait_are_rung(
    scene: Scene, end: Callable[[Scene, Job], None]
) -> None:
    scene.submit(tenant="a", model=OTHER, deadline_s=5)
    [job] = claimed(scene, OTHER)
    waiting = scene.submit(tenant="a")
    all_is_quiet(scene)

    end(scene, job)
    assert MODEL in scene.bells
    if end is not give_back:
        assert [each.id for each in claimed(scene)] == [waiting.id]


def test_the_lane_that_ended_a_job_lets_another_have_the_next(scene: Scene) -> None:
    for _ in range(3):
        scene.submit(tenant="a")
    [job] = claimed(scene)
    other = scene.submit(tenant="a", model=OTHER)
    assert claimed(scene, OTHER) == []
    for model in (MODEL, OTHER):
        scene.execution.answer(model)
    scene.bells.clear()

    succeed(scene, job)
    assert claimed(scene) == []
    assert set(scene.bells) == {MODEL, OTHER}
    assert [each.id for each in claimed(scene, OTHER)] == [other.id]


def test_it_has_the_next_itself_where_the_other_does_not_come(scene: Scene) -> None:
    jobs = [scene.submit(tenant="a") for _ in range(2)]
    [job] = claimed(scene)
    scene.submit(tenant="a", model=OTHER)
    assert claimed(scene, OTHER) == []
    succeed(scene, job)
    scene.bells.clear()

    scene.execution.answer(MODEL)
    assert claimed(scene) == []
    assert scene.bells == [MODEL]
    assert [each.id for each in claimed(scene)] == [jobs[1].id]


def test_an_end_between_the_count_and_the_pull_is_seen(scene: Scene) -> None:
    scene.submit(tenant="a", model=OTHER)
    [job] = claimed(scene, OTHER)
    waiting = scene.submit(tenant="a")

    def end_it(name: str) -> None:
        if name == "pull":
            scene.redis.before = lambda _: None
            succeed(scene, job)

    scene.redis.before = end_it
    assert [each.id for each in claimed(scene)] == [waiting.id]


def test_a_job_pulled_too_many_goes_back_to_its_lane(scene: Scene) -> None:
    first, second = scene.submit(tenant="a"), scene.submit(tenant="a")

    def another_is_quicker(name: str) -> None:
        if name == "claim":
            scene.sql.before = lambda _: None
            assert [job.id for job in claimed(scene, token="u")] == [second.id]

    scene.sql.before = another_is_quicker
    assert claimed(scene, limit=1) == []
    assert scene.row(first).attempt == 0
    assert scene.waiting() == [first.id]


def test_what_can_not_be_put_back_is_left_to_the_sweep(scene: Scene) -> None:
    first = scene.submit(tenant="a")
    scene.submit(tenant="a")

    def another_is_quicker(name: str) -> None:
        if name == "claim":
            scene.sql.before = lambda _: None
            claimed(scene, token="u")
            scene.sql.go("jobs")

    scene.sql.before = another_is_quicker
    assert claimed(scene, limit=1) == []
    assert scene.waiting() == []
    scene.sql.come_back()
    scene.sweep()
    assert scene.waiting() == [first.id]


def test_a_limit_that_changes_acts_on_the_next_claims(scene: Scene) -> None:
    for _ in range(6):
        scene.submit(tenant="a")
    assert len(claimed(scene)) == 1
    limit(scene, 3)
    assert len(claimed(scene)) == 2
    limit(scene, 1)
    assert claimed(scene) == []
    limit(scene, None)
    assert len(claimed(scene)) == 3


def test_a_redis_that_was_emptied_changes_nothing(scene: Scene) -> None:
    for _ in range(3):
        scene.submit(tenant="a")
    [job] = claimed(scene)
    scene.empty_lane()
    scene.sweep()
    assert claimed(scene) == []
    succeed(scene, job)
    assert len(claimed(scene)) == 1


def test_suspects_of_who_has_reached_its_limit_keep_nobody_waiting(scene: Scene) -> None:
    limit(scene, None)
    for _ in range(2):
        scene.submit(tenant="a")
    for _ in range(8):
        scene.execution.crash(scene.claim())
    scene.submit(tenant="a", model=OTHER)
    claimed(scene, OTHER)
    limit(scene, 1)
    assert not scene.execution.has_suspects(MODEL)
    assert scene.claim_suspects() == []
    limit(scene, 2)
    assert scene.execution.has_suspects(MODEL)
    assert len(scene.claim_suspects()) == 1


def test_its_turn_is_not_foretold_before_those_ahead_could_run(scene: Scene) -> None:
    for each in ("a", "b"):
        scene.submit(tenant=each, params={"delay_ms": 1_000}, priority=9)
    for _ in range(10):
        scene.clock.sleep(1)
        run = {"estimate": 10_000, "cost": 10_000, "run_ms": 10_000}
        scene.true_lanes.count_finished(MODEL, ended(1, **run))
    jobs = [scene.submit(tenant="ab"[n % 2], params={"delay_ms": 1_000}) for n in range(20)]
    ours, theirs = (scene.intake.place(job).eta_s for job in jobs[-2:])
    assert ours == pytest.approx(9, rel=0.1)
    assert theirs == pytest.approx(2, rel=0.2)
    limit(scene, 3)
    assert scene.intake.place(jobs[-2]).eta_s == pytest.approx(3, rel=0.1)


def test_where_nobody_has_a_limit_nothing_more_is_asked(scene: Scene) -> None:
    limit(scene, None)
    assert claimed(scene) == []
    scene.submit(tenant="a")
    for calls in (scene.sql.calls, scene.redis.calls):
        calls.clear()
    [job] = claimed(scene)
    succeed(scene, job)
    assert scene.sql.calls == Counter(["claim", "now", "finish"])
    assert scene.redis.calls == Counter(["pull", "publish", "publish", "count_finished"])


def test_without_a_count_nobody_is_pulled(scene: Scene) -> None:
    job = scene.submit(tenant=DEFAULT_TENANT)
    scene.sql.go("tenants_running")
    with pytest.raises(StoreUnavailable):
        claimed(scene)
    assert scene.waiting() == [job.id]
