"""Random lives of a whole service: processes killed, frozen, thawed between any two calls, parts away, Redis emptied.

Whatever happened, once the faults are over the invariants hold; the numbers are those of the design.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from ktqueue.job import Job, JobState
from tests.support.scene import submission
from tests.unit.simulation.actor import Actor, Turn
from tests.unit.simulation.world import World, text_of

PARAMS = st.fixed_dictionaries(
    {"steps": st.integers(1, 6)}, optional={"fail": st.sampled_from(["permanent", "retryable"])}
)
CALLS = st.one_of(st.just(200), st.integers(0, 12))
"""Most run to their end; some are left in the middle."""
THEN = st.sampled_from([None, None, Turn.KILL, Turn.KILL, Turn.FAIL, Turn.LOSE])
PICK = st.integers(0, 1_000)
MOST_ACTORS = 8


class Service(RuleBasedStateMachine):
    """What may happen, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.submitted: list[tuple[Actor, str | None]] = []
        self.cancelled: list[Actor] = []

    @rule(
        params=PARAMS,
        priority=st.integers(0, 9),
        max_attempts=st.integers(1, 3),
        deadline_s=st.sampled_from([None, None, None, 1, 10]),
        delay_ms=st.sampled_from([None, None, 5_000]),
        key=st.sampled_from([None, None, "one", "other"]),
        calls=CALLS,
        then=THEN,
    )
    def submit(self, delay_ms: int | None, key: str | None, calls: int, then: Turn | None, **given: Any) -> None:
        run_at = None if delay_ms is None else self.world.clock.now() + delay_ms
        client = self.world.submit(submission(run_at=run_at, **given), key)
        self.submitted.append((client, key))
        self.world.run(client, calls, then)

    def a_job(self, pick: int) -> Job | None:
        jobs = self.world.jobs()
        return jobs[pick % len(jobs)] if jobs else None

    @rule(pick=PICK, calls=CALLS, then=THEN)
    def cancel(self, pick: int, calls: int, then: Turn | None) -> None:
        if job := self.a_job(pick):
            client = self.world.act("client", lambda: self.world.intake.cancel(job.id))
            self.cancelled.append(client)
            self.world.run(client, calls, then)

    @rule(pick=PICK, calls=CALLS, then=THEN)
    def retry(self, pick: int, calls: int, then: Turn | None) -> None:
        failed = [job for job in self.world.jobs() if job.state is JobState.FAILED]
        if failed:
            job_id = failed[pick % len(failed)].id
            self.world.clock.sleep(0.001)
            self.world.run(self.world.act("client", lambda: self.world.intake.retry(job_id)), calls, then)

    @rule(pick=PICK)
    def follow(self, pick: int) -> None:
        if (job := self.a_job(pick)) and len(self.world.followers) < 3:
            self.world.follow(job.id)

    @precondition(lambda self: len(self.world.actors) < MOST_ACTORS)
    @rule(capacity=st.integers(1, 3), works=st.sampled_from([True, True, True, False]), calls=CALLS, then=THEN)
    def a_bell_rings(self, capacity: int, works: bool, calls: int, then: Turn | None) -> None:
        """Heard, imagined, or heard twice."""
        if self.world.bells:
            self.world.bells.pop()
        self.world.run(self.world.work(capacity, works=works), calls, then)

    @precondition(lambda self: len(self.world.actors) < MOST_ACTORS)
    @rule(calls=CALLS, then=THEN)
    def sweep(self, calls: int, then: Turn | None) -> None:
        self.world.run(self.world.act("sweep", self.world.sweep), calls, then)

    @precondition(lambda self: bool(self.world.actors))
    @rule(pick=PICK, calls=CALLS, then=THEN)
    def go_on(self, pick: int, calls: int, then: Turn | None) -> None:
        self.world.run(self.world.actors[pick % len(self.world.actors)], calls, then)

    @precondition(lambda self: bool(self.world.stops))
    @rule(pick=PICK)
    def ask_to_stop(self, pick: int) -> None:
        stops = list(self.world.stops.values())
        stops[pick % len(stops)][0] = True

    @rule(ms=st.sampled_from([1, 100, 1_000, 3_000, 8_001, 31_007]))
    def time_passes(self, ms: int) -> None:
        self.world.clock.sleep(ms / 1000)

    @rule()
    def redis_is_emptied(self) -> None:
        self.world.forget_redis()

    @rule()
    def a_bell_is_lost(self) -> None:
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
                keys.setdefault(key or client.answer.id, set()).add(client.answer.id)
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
            again = self.world.act("follower", lambda job=job: list(self.world.following.follow(job.id)))  # type: ignore[misc]
            self.world.finish(again)
            assert isinstance(again.answer, list)
            assert ids == sorted(set(ids)), "6"
            assert told == [event.data["state"] for event in again.answer if event and event.type == "state"], "6"
            assert told[-1] == job.state
            if job.state is JobState.SUCCEEDED and job.result is not None:
                assert text_of(follower.seen, job.claims) == job.result["text"], "6"


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
            assert job.error.code in {"lease_lost", "engine_error"}, "9: it fell with another"
            assert job.attempt == job.max_attempts, "4"
    if job.state is JobState.EXPIRED:
        assert job.deadline_at is not None
    assert (job.token, job.lease_until) == (None, None)


TestService = Service.TestCase
TestService.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
