"""A limit on what runs at once, a tenant's or a key's: whose jobs wait, who goes in their place, who is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from ktqueue.errors import StoreUnavailable
from ktqueue.job import Job, JobError, JobState
from ktqueue.registry.base import ApiKey
from ktqueue.sweep import CUT_MS
from ktqueue.tenant import ALL_SCOPES, DEFAULT_TENANT, Limits, Tenant
from ktqueue.watched import FRESH_S
from tests.support.draining import runner, toy
from tests.support.scene import LEASE_MS, MODEL, Scene, ended

OTHER = "other"
KEY = "key_1"


class Bounded(Scene):
    """A scene in which ``ours``, jobs of a tenant or of a key, may not all run."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.ours: dict[str, Any] = {"tenant": "a"} | ({"key": KEY} if kind == "key" else {})
        self.registry.add_key(ApiKey(KEY, "prefix", "a", "", ALL_SCOPES, "salt", "digest", 0))

    def limit(self, most: int | None) -> None:
        limits = Limits(running_jobs=most)
        if self.kind == "tenant":
            self.registry.put_tenant(Tenant("a", limits=limits))
        else:
            self.registry.limit_key(KEY, limits)
        self.clock.sleep(FRESH_S)


@pytest.fixture(params=["tenant", "key"])
def scene(request: pytest.FixtureRequest) -> Bounded:
    scene = Bounded(request.param)
    scene.limit(1)
    return scene


@pytest.fixture
def keyed() -> Bounded:
    scene = Bounded("key")
    scene.limit(1)
    return scene


def claimed(scene: Bounded, model: str = MODEL, limit: int = 100, token: str = "t") -> list[Job]:
    return scene.execution.claim(model, limit, token=token, worker=f"worker of {token}")


def all_is_quiet(scene: Bounded) -> None:
    """Every bell was heard, and every slot of the other lane has found nothing."""
    scene.execution.answer(MODEL)
    assert claimed(scene) == []
    scene.bells.clear()


def test_others_go_in_place_of_who_has_reached_its_limit(scene: Bounded) -> None:
    ours = [scene.submit(**scene.ours) for _ in range(3)]
    theirs = [scene.submit(tenant="b") for _ in range(3)]

    assert {job.id for job in claimed(scene)} == {ours[0].id, *(job.id for job in theirs)}
    assert scene.waiting() == [job.id for job in ours[1:]]


def test_a_drain_goes_on_with_the_next_as_soon_as_one_has_ended(scene: Bounded) -> None:
    jobs = [scene.submit(**scene.ours, params={"steps": 3}) for _ in range(5)]
    engine = toy(scene)

    assert runner(scene, engine).drain() == 5
    assert {scene.row(job).state for job in jobs} == {JobState.SUCCEEDED}


def succeed(scene: Bounded, job: Job) -> None:
    scene.execution.settle([scene.execution.success(job, {}, None, 1)])


def fail(scene: Bounded, job: Job) -> None:
    scene.execution.settle([scene.execution.failure(job, JobError("no", "no", retryable=False))])


def try_later(scene: Bounded, job: Job) -> None:
    scene.execution.settle([scene.execution.failure(job, JobError("no", "no", retryable=True))])


def give_back(scene: Bounded, job: Job) -> None:
    scene.execution.give_back([job])


def cancel(scene: Bounded, job: Job) -> None:
    scene.intake.cancel(job.id, job.tenant)


def die(scene: Bounded, job: Job) -> None:
    scene.dead.add(job.worker or "")
    scene.sweep._recovery.of_the_dead()


def fall_silent(scene: Bounded, job: Job) -> None:
    scene.clock.sleep(LEASE_MS / 1000)
    scene.sweep._recovery.of_the_silent()


def run_late(scene: Bounded, job: Job) -> None:
    scene.clock.sleep(5 + CUT_MS / 1000)
    scene.sweep._expire_overdue()


@pytest.mark.parametrize("end", [succeed, fail, try_later, give_back, cancel, die, fall_silent, run_late])
def test_however_a_job_ends_the_lanes_in_which_its_tenants_wait_are_rung(
    scene: Bounded, end: Callable[[Bounded, Job], None]
) -> None:
    scene.submit(**scene.ours, model=OTHER, deadline_s=5)
    [job] = claimed(scene, OTHER)
    waiting = scene.submit(**scene.ours)
    all_is_quiet(scene)

    end(scene, job)
    assert MODEL in scene.bells
    if end is not give_back:
        assert [each.id for each in claimed(scene)] == [waiting.id]


def test_the_lane_that_ended_a_job_lets_another_have_the_next(scene: Bounded) -> None:
    for _ in range(3):
        scene.submit(**scene.ours)
    [job] = claimed(scene)
    other = scene.submit(**scene.ours, model=OTHER)
    assert claimed(scene, OTHER) == []
    for model in (MODEL, OTHER):
        scene.execution.answer(model)
    scene.bells.clear()

    succeed(scene, job)
    assert claimed(scene) == []
    assert set(scene.bells) == {MODEL, OTHER}
    assert [each.id for each in claimed(scene, OTHER)] == [other.id]


def test_it_has_the_next_itself_where_the_other_does_not_come(scene: Bounded) -> None:
    jobs = [scene.submit(**scene.ours) for _ in range(2)]
    [job] = claimed(scene)
    scene.submit(**scene.ours, model=OTHER)
    assert claimed(scene, OTHER) == []
    succeed(scene, job)
    scene.bells.clear()

    scene.execution.answer(MODEL)
    assert claimed(scene) == []
    assert scene.bells == [MODEL]
    assert [each.id for each in claimed(scene)] == [jobs[1].id]


def test_an_end_between_the_count_and_the_pull_is_seen(scene: Bounded) -> None:
    scene.submit(**scene.ours, model=OTHER)
    [job] = claimed(scene, OTHER)
    waiting = scene.submit(**scene.ours)

    def end_it(name: str) -> None:
        if name == "pull":
            scene.redis.before = lambda _: None
            succeed(scene, job)

    scene.redis.before = end_it
    assert [each.id for each in claimed(scene)] == [waiting.id]


def test_a_job_pulled_too_many_goes_back_to_its_lane(scene: Bounded) -> None:
    first, second = scene.submit(**scene.ours), scene.submit(**scene.ours)

    def another_is_quicker(name: str) -> None:
        if name == "claim":
            scene.sql.before = lambda _: None
            assert [job.id for job in claimed(scene, token="u")] == [second.id]

    scene.sql.before = another_is_quicker
    assert claimed(scene, limit=1) == []
    assert scene.row(first).attempt == 0
    assert scene.waiting() == [first.id]


def test_what_can_not_be_put_back_is_left_to_the_sweep(scene: Bounded) -> None:
    first = scene.submit(**scene.ours)
    scene.submit(**scene.ours)

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


def test_a_limit_that_changes_acts_on_the_next_claims(scene: Bounded) -> None:
    for _ in range(6):
        scene.submit(**scene.ours)
    assert len(claimed(scene)) == 1
    scene.limit(3)
    assert len(claimed(scene)) == 2
    scene.limit(1)
    assert claimed(scene) == []
    scene.limit(None)
    assert len(claimed(scene)) == 3


def test_a_redis_that_was_emptied_changes_nothing(scene: Bounded) -> None:
    for _ in range(3):
        scene.submit(**scene.ours)
    [job] = claimed(scene)
    scene.empty_lane()
    scene.sweep()
    assert claimed(scene) == []
    succeed(scene, job)
    assert len(claimed(scene)) == 1


def test_suspects_of_who_has_reached_its_limit_keep_nobody_waiting(scene: Bounded) -> None:
    scene.limit(None)
    for _ in range(2):
        scene.submit(**scene.ours)
    for _ in range(8):
        scene.execution.crash(scene.claim())
    scene.submit(**scene.ours, model=OTHER)
    claimed(scene, OTHER)
    scene.limit(1)
    assert not scene.execution.has_suspects(MODEL)
    assert scene.claim_suspects() == []
    scene.limit(2)
    assert scene.execution.has_suspects(MODEL)
    assert len(scene.claim_suspects()) == 1


def test_its_turn_is_not_foretold_before_those_ahead_could_run(scene: Bounded) -> None:
    for each in (scene.ours, {"tenant": "b"}):
        scene.submit(**each, params={"delay_ms": 1_000}, priority=9)
    for _ in range(10):
        scene.clock.sleep(1)
        run = {"estimate": 10_000, "cost": 10_000, "run_ms": 10_000}
        scene.true_lanes.count_finished(MODEL, ended(1, **run))
    whose = ({"tenant": "b"}, scene.ours)
    jobs = [scene.submit(**whose[n % 2 == 0], params={"delay_ms": 1_000}) for n in range(20)]
    ours, theirs = (scene.intake.place(job).eta_s for job in jobs[-2:])
    assert ours == pytest.approx(9, rel=0.1)
    assert theirs == pytest.approx(2, rel=0.2)
    scene.limit(3)
    assert scene.intake.place(jobs[-2]).eta_s == pytest.approx(3, rel=0.1)


def test_where_nobody_has_a_limit_nothing_more_is_asked(scene: Bounded) -> None:
    scene.limit(None)
    assert claimed(scene) == []
    scene.submit(**scene.ours)
    for calls in (scene.sql.calls, scene.redis.calls):
        calls.clear()
    [job] = claimed(scene)
    succeed(scene, job)
    assert scene.sql.calls == Counter(["claim", "now", "finish"])
    assert scene.redis.calls == Counter(["pull", "publish", "publish", "count_finished"])


def test_without_a_count_nobody_is_pulled(scene: Bounded) -> None:
    job = scene.submit(tenant=DEFAULT_TENANT)
    scene.sql.go("running_by_owner")
    with pytest.raises(StoreUnavailable):
        claimed(scene)
    assert scene.waiting() == [job.id]


def test_others_of_the_same_tenant_go_in_place_of_a_key_that_has_reached_its_limit(keyed: Bounded) -> None:
    ours = [keyed.submit(**keyed.ours) for _ in range(3)]
    others = [keyed.submit(tenant="a", key=key) for key in (None, "key_2", "key_2")]

    assert [job.id for job in claimed(keyed)] == [job.id for job in (ours[0], *others)]
    assert keyed.waiting() == [job.id for job in ours[1:]]


def test_a_tenants_limit_holds_for_all_its_keys_together(keyed: Bounded) -> None:
    keyed.registry.put_tenant(Tenant("a", limits=Limits(running_jobs=2)))
    keyed.clock.sleep(FRESH_S)
    for _ in range(3):
        keyed.submit(**keyed.ours)
    others = [keyed.submit(tenant="a", key="key_2") for _ in range(2)]

    first, second = claimed(keyed)
    assert (first.key, second.id) == (KEY, others[0].id)
    succeed(keyed, first)
    assert [job.key for job in claimed(keyed)] == [KEY]


def test_what_came_before_its_key_was_bounded_goes_where_it_belongs(keyed: Bounded) -> None:
    keyed.limit(None)
    ours = [keyed.submit(**keyed.ours) for _ in range(6)]
    others = [keyed.submit(tenant="a") for _ in range(3)]
    keyed.limit(2)

    ran = [claimed(keyed, limit=4), claimed(keyed, limit=4), claimed(keyed, limit=4)]
    assert [[job.id for job in jobs] for jobs in ran] == [
        [job.id for job in ours[:2]],
        [others[0].id, others[1].id],
        [others[2].id],
    ]
    succeed(keyed, ran[0][0])
    assert [job.id for job in claimed(keyed)] == [ours[2].id]
    keyed.limit(None)
    assert [job.id for job in claimed(keyed)] == [job.id for job in ours[3:]]


def test_keys_that_came_of_one_run_as_one(keyed: Bounded) -> None:
    again = ApiKey("key_2", "p2", "a", "", ALL_SCOPES, "salt", "digest", 0, origin=KEY, limits=Limits(running_jobs=1))
    keyed.registry.replace_key(KEY, again, 1_000)
    for key in (KEY, again.counted_as):
        keyed.submit(tenant="a", key=key)
    assert len(claimed(keyed)) == 1
