"""Random lives of a whole service: processes killed, frozen, thawed between any two calls, parts away, Redis emptied.

Whatever happened, once the faults are over the invariants hold; the numbers are those of the design.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ktqueue.events.base import Event
from ktqueue.job import Job, JobState
from ktqueue.tenant import DEFAULT_TENANT, Caller
from ktqueue.webhook import EventType, Webhook
from tests.support.scene import submission
from tests.unit.simulation.actor import Actor, Turn
from tests.unit.simulation.world import MANY, World, text_of

PARAMS = st.fixed_dictionaries(
    {"steps": st.integers(1, 6)}, optional={"fail": st.sampled_from(["permanent", "retryable", "crash"])}
)
FAR = st.one_of(
    st.integers(0, 15),
    st.sampled_from(["pull", "claim", "finish", "renew", "publish", "add", "post", "settle"]),
    st.just(MANY),
)
"""How far a process gets: some calls, up to a call that matters, or to its end."""
THEN = st.sampled_from([None, None, Turn.KILL, Turn.KILL, Turn.FAIL, Turn.LOSE])
PICK = st.integers(0, 1_000)
RARELY = (None,) * 5
MOST_WORKERS = 4
OTHER = ("other", None)
WEBHOOK = Webhook("https://receiver.example/hook", "https://receiver.example:443", EventType(127))


class Service(RuleBasedStateMachine):
    """What may happen, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.submitted: list[tuple[Actor, str | None]] = []
        self.cancelled: list[Actor] = []

    def workers(self) -> list[Actor]:
        return [actor for actor in self.world.actors if actor.kind == "worker"]

    def others(self) -> list[Actor]:
        return [actor for actor in self.world.actors if actor.kind != "worker"]

    @rule(
        params=PARAMS,
        priority=st.integers(0, 9),
        max_attempts=st.integers(1, 3),
        deadline_s=st.sampled_from([*RARELY, 2, 20]),
        delay_ms=st.sampled_from([*RARELY, 5_000]),
        key=st.sampled_from([*RARELY, "one", "other"]),
        webhook=st.sampled_from([None, None, WEBHOOK]),
        whose=st.sampled_from([(DEFAULT_TENANT, None), (DEFAULT_TENANT, "key_1"), (DEFAULT_TENANT, "key_2"), OTHER]),
        far=FAR,
        then=THEN,
    )
    def submit(
        self,
        delay_ms: int | None,
        key: str | None,
        far: int | str,
        then: Turn | None,
        whose: tuple[str, str | None] = (DEFAULT_TENANT, "key_1"),
        **given: Any,
    ) -> None:
        run_at = None if delay_ms is None else self.world.clock.now() + delay_ms
        tenant, api_key = whose
        client = self.world.submit(submission(run_at=run_at, tenant=tenant, key=api_key, **given), key)
        self.submitted.append((client, key))
        self.world.run(client, far, then)

    @initialize(
        jobs=st.lists(st.tuples(PARAMS, st.sampled_from([None, WEBHOOK])), min_size=3, max_size=6),
        frozen=st.sampled_from([None, "finish", "renew"]),
        limits=st.dictionaries(st.sampled_from([DEFAULT_TENANT, "other", "key_1", "key_2"]), st.integers(1, 3)),
    )
    def a_crowd_waits(
        self, jobs: list[tuple[dict[str, Any], Webhook | None]], frozen: str | None, limits: dict[str, int]
    ) -> None:
        """And maybe a worker was frozen past its lease, and another has its jobs."""
        self.world.limits = limits
        for params, webhook in jobs:
            self.submit(None, None, MANY, None, params=params, webhook=webhook)
        if frozen is not None:
            self.world.run(self.world.work(3), frozen)
            self.time_passes(10)
            self.world.run(self.world.work(3), "finish")

    @rule(far=FAR, then=THEN)
    def a_sender_wakes(self, far: int | str, then: Turn | None) -> None:
        self.world.run(self.world.deliver(), far, then)

    @precondition(lambda self: bool(self.world.jobs()))
    @rule(what=st.sampled_from(["cancel", "cancel", "retry", "follow"]), pick=PICK, far=FAR, then=THEN)
    def client_asks(self, what: str, pick: int, far: int | str, then: Turn | None) -> None:
        jobs = self.world.jobs()
        job_id, tenant = jobs[pick % len(jobs)].id, jobs[pick % len(jobs)].tenant
        if what == "follow":
            if len(self.world.followers) < 3:
                self.world.follow(job_id, tenant)
            return
        intake = self.world.intake()
        asks: dict[str, Callable[[], Job]] = {
            "cancel": lambda: intake.cancel(job_id, tenant),
            "retry": lambda: intake.retry(job_id, Caller(tenant)),
        }
        client = self.world.act("client", asks[what])
        self.cancelled += [client] if what == "cancel" else []
        self.world.run(client, far, then)

    @precondition(lambda self: len(self.workers()) < MOST_WORKERS)
    @rule(capacity=st.integers(1, 3), works=st.sampled_from([True] * 5 + [False]), far=FAR, then=THEN)
    def a_bell_rings(self, capacity: int, works: bool, far: int | str, then: Turn | None) -> None:
        """Heard, imagined, or heard twice."""
        if self.world.bells:
            self.world.bells.pop()
        self.world.run(self.world.work(capacity, works=works), far, then)

    @precondition(lambda self: bool(self.workers()))
    @rule(pick=PICK, far=FAR, then=THEN)
    def a_worker_goes_on(self, pick: int, far: int | str, then: Turn | None) -> None:
        self.world.run(self.workers()[pick % len(self.workers())], far, then)

    @precondition(lambda self: bool(self.others()))
    @rule(pick=PICK, far=FAR, then=THEN)
    def another_goes_on(self, pick: int, far: int | str, then: Turn | None) -> None:
        other = self.others()[pick % len(self.others())]
        self.world.run(other, 10 if other.kind == "follower" else far, then)

    @precondition(lambda self: bool(self.workers()))
    @rule(pick=PICK)
    def a_worker_is_asked_to_stop(self, pick: int) -> None:
        self.world.stops[self.workers()[pick % len(self.workers())]][0] = True

    @rule(seconds=st.sampled_from([0.1, 1, 10, 10]))
    def time_passes(self, seconds: float) -> None:
        """In which whoever does not go on is frozen, and the sweep does its work."""
        for _ in range(max(1, int(seconds))):
            self.world.clock.sleep(min(seconds, 1))
            self.world.finish(self.world.act("sweep", self.world.sweep))

    @rule(far=FAR, then=THEN)
    def a_sweep_has_a_bad_day(self, far: int | str, then: Turn | None) -> None:
        self.world.run(self.world.act("sweep", self.world.sweep), far, then)

    @rule(all_of_it=st.booleans())
    def redis_forgets(self, all_of_it: bool) -> None:
        """Everything, or only the bells that were on their way."""
        if all_of_it:
            self.world.forget_redis()
        self.world.bells.clear()

    def teardown(self) -> None:
        try:
            self.world.come_to_rest()
            self.check_clients()
            for job in self.world.jobs():
                check_end(job)
            self.check_followers()
        finally:
            self.world.kill_all()

    def check_clients(self) -> None:
        jobs = {job.id: job for job in self.world.jobs()}
        keys: dict[str, set[str]] = {}
        for client, key in self.submitted:
            if isinstance(client.answer, Job):
                assert client.answer.id in jobs, "1: accepted and not there"
                keys.setdefault(f"{client.answer.tenant} {key or client.answer.id}", set()).add(client.answer.id)
        assert all(len(ids) == 1 for ids in keys.values()), "5"
        for client in self.cancelled:
            if isinstance(client.answer, Job) and client.answer.state is JobState.CANCELLED:
                assert jobs[client.answer.id].state is JobState.CANCELLED, "8"

    def check_followers(self) -> None:
        jobs = {job.id: job for job in self.world.jobs()}
        for follower in self.world.followers:
            job = jobs[follower.job_id]
            ids = [event.id for event in follower.seen]
            told = [event.data["state"] for event in follower.seen if event.type == "state"]
            again = self.world.act("follower", partial(self.follow_again, job))
            self.world.finish(again)
            assert isinstance(again.answer, list)
            assert ids == sorted(set(ids)), "6"
            assert told == [event.data["state"] for event in again.answer if event and event.type == "state"], "6"
            assert told[-1] == job.state
            if job.state is JobState.SUCCEEDED and job.result is not None:
                assert text_of(follower.seen, job.claims) == job.result["text"], "6"

    def follow_again(self, job: Job) -> list[Event | None]:
        return list(self.world.following.follow(job.id, tenant=job.tenant))


def check_end(job: Job) -> None:
    """Each job ended in a way that its own nature, or its own fate, explains."""
    how, steps = job.params.get("fail"), job.params["steps"]
    if job.state is JobState.SUCCEEDED:
        assert how is None, "9"
        assert job.result == {"text": "abcdef"[: steps - 1], "finish_reason": "length"}, "9"
    if job.state is JobState.FAILED:
        assert job.error is not None
        codes = {"permanent": "bad_input", "retryable": "busy"}
        if job.error.code != codes.get(how or ""):
            assert job.error.code == "engine_crashed", "9: it fell with another"
            assert job.attempt == job.max_attempts, "4"
    if job.state is JobState.EXPIRED:
        assert job.deadline_at is not None
    assert (job.token, job.lease_until) == (None, None)


# A failure is made as small as it can be before it is shown, which takes minutes.
TestService = pytest.mark.timeout(600)(Service.TestCase)
TestService.settings = settings(max_examples=200, stateful_step_count=40)
