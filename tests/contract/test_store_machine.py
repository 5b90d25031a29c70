"""Any sequence of calls: the store in memory and the one on SQLite must give the same answers all the way.

Each has a clock of its own, so instants are hours away from the present, or they are 'now' and only compared for
being there.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from ktqueue.job import Fence, Job, JobError, JobState, Task, Usage, Verdict
from ktqueue.store.base import IdempotencyKey, JobQuery, LaneCensus, Store, Waiting
from ktqueue.store.memory import MemoryStore
from ktqueue.store.sql import SqlStore

Answer = TypeVar("Answer")

HOUR = 3_600_000
START = time.time_ns() // 1_000_000
WHENS = st.sampled_from([None, START - 2 * HOUR, START - HOUR, START + HOUR])
LEASES = st.sampled_from([-HOUR, 0, HOUR])
TOKENS = st.sampled_from(["red", "blue"])
MODELS = st.sampled_from(["a", "b"])
GROUPS = st.lists(st.integers(0, 11), max_size=6)
METADATA = st.dictionaries(st.sampled_from(["k", 'q"', "a.b"]), st.sampled_from(["x", "y"]), max_size=2)


def without_instants(job: Job) -> Job:
    """What the clock said becomes 1 where it said something."""
    return replace(
        job,
        started_at=job.started_at and 1,
        finished_at=job.finished_at and 1,
        lease_until=job.lease_until and 1,
    )


def comparable(answer: Any) -> Any:
    if isinstance(answer, Job):
        return without_instants(answer)
    if isinstance(answer, LaneCensus):
        return replace(answer, oldest_due_at=answer.oldest_due_at and 1)
    if isinstance(answer, list):
        return [comparable(each) for each in answer]
    return answer


class Stores(RuleBasedStateMachine):
    """Calls both and compares."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = shutil.copy(self.template, Path(self.folder.name) / "ktqueue.db")
        self.sql = SqlStore(f"sqlite:///{path}")
        self.memory = MemoryStore(lambda: time.time_ns() // 1_000_000)
        self.made = 0

    def teardown(self) -> None:
        self.sql.close()
        self.folder.cleanup()

    def both(self, call: Callable[[Store], Answer]) -> Answer:
        answer = call(self.memory)
        assert comparable(call(self.sql)) == comparable(answer)
        return answer

    def job(self, number: int, **values: Any) -> Job:
        made = Job(
            id=f"job_{number:02}",
            model="a",
            task=Task.ECHO,
            input={"n": number},
            params={},
            created_at=START - number * HOUR,
            rank=float(number % 3),
        )
        return replace(made, **values)

    def ids(self, numbers: list[int]) -> list[str]:
        return [f"job_{number:02}" for number in numbers]

    @rule(model=MODELS, run_at=WHENS, deadline_at=WHENS, metadata=METADATA)
    def add(self, **values: Any) -> None:
        self.made += 1
        self.both(lambda store: store.add([self.job(self.made, **values)]))

    @rule(number=st.integers(0, 11))
    def add_again(self, number: int) -> None:
        self.both(lambda store: store.add([self.job(number)]))

    @rule(number=st.integers(0, 11), key=st.sampled_from("kl"), digest=st.sampled_from("de"))
    def add_once(self, number: int, key: str, digest: str) -> None:
        self.both(lambda store: store.add_once(self.job(number), IdempotencyKey(key, digest)))

    @rule(numbers=GROUPS, token=TOKENS, lease_ms=LEASES)
    def claim(self, numbers: list[int], token: str, lease_ms: int) -> None:
        self.both(lambda store: store.claim(self.ids(numbers), token=token, worker="w", lease_ms=lease_ms))

    @rule(numbers=GROUPS, token=TOKENS, lease_ms=LEASES)
    def renew(self, numbers: list[int], token: str, lease_ms: int) -> None:
        self.both(lambda store: store.renew(token, self.ids(numbers), lease_ms=lease_ms))

    @rule(
        numbers=GROUPS,
        stale=st.sampled_from([False, False, False, True]),
        state=st.sampled_from([JobState.SUCCEEDED, JobState.FAILED, JobState.QUEUED]),
        run_at=WHENS,
        charged=st.booleans(),
        only_lapsed=st.booleans(),
    )
    def finish(self, numbers: list[int], stale: bool, only_lapsed: bool, **values: Any) -> None:
        verdicts = [
            Verdict(
                self.fence(job_id, stale),
                result={"place": place},
                error=JobError("code", "message", retryable=True),
                usage=Usage(place, 2),
                largest_batch=len(numbers),
                **values,
            )
            for place, job_id in enumerate(self.ids(numbers))
        ]
        self.both(lambda store: store.finish(verdicts, only_lapsed=only_lapsed))

    def fence(self, job_id: str, stale: bool) -> Fence:
        """What holds the job now, or one that is an attempt behind."""
        job = self.memory.get(job_id)
        token, attempt = ("red", 1) if job is None else (job.token or "red", job.attempt)
        return Fence(job_id, token, attempt - stale)

    @rule(number=st.integers(0, 11))
    def cancel(self, number: int) -> None:
        self.both(lambda store: store.cancel(f"job_{number:02}"))

    @rule(number=st.integers(0, 11))
    def delete(self, number: int) -> None:
        self.both(lambda store: store.delete(f"job_{number:02}"))

    @rule()
    def expire(self) -> None:
        self.both(lambda store: sorted(store.expire(50), key=lambda job: job.id))

    @rule()
    def wake(self) -> None:
        self.both(lambda store: sorted(store.wake(50), key=lambda job: job.id))

    @rule(model=MODELS, limit=st.integers(1, 4), after=st.none() | st.integers(0, 11))
    def waiting(self, model: str, limit: int, after: int | None) -> None:
        place = None if after is None else Waiting(f"job_{after:02}", float(after % 3))
        self.both(lambda store: store.waiting(model, after=place, limit=limit))

    @rule(
        states=st.lists(st.sampled_from(JobState), max_size=2),
        model=st.none() | MODELS,
        metadata=METADATA,
        ids=st.just([]) | GROUPS,
        created_from=st.none() | st.integers(0, 11),
        created_to=st.none() | st.integers(0, 11),
        before=st.none() | st.integers(0, 11),
        limit=st.integers(1, 5),
    )
    def search(
        self, ids: list[int], created_from: int | None, created_to: int | None, before: int | None, **values: Any
    ) -> None:
        query = JobQuery(
            ids=self.ids(ids),
            created_from=None if created_from is None else START - created_from * HOUR,
            created_to=None if created_to is None else START - created_to * HOUR,
            before=None if before is None else f"job_{before:02}",
            **values,
        )
        self.both(lambda store: store.search(query))

    @invariant()
    def every_job_is_the_same(self) -> None:
        self.both(lambda store: store.search(JobQuery(limit=100)))
        self.both(lambda store: store.census())
        self.both(lambda store: sorted(store.lapsed(50), key=lambda job: job.id))

    @invariant()
    def attempts_stay_within_claims(self) -> None:
        for job in self.memory.search(JobQuery(limit=100)):
            assert 0 <= job.attempt <= job.claims
            assert (job.token is not None) == (job.state is JobState.RUNNING)
            assert (job.finished_at is not None) == job.state.terminal


def test_memory_and_sqlite_agree(migrated_file: Path) -> None:
    machine = type("Machine", (Stores,), {"template": migrated_file})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
