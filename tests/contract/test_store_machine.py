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

from ktqueue.job import Attempt, Fence, Job, JobError, JobState, Task, Usage, Verdict
from ktqueue.priority_class import Entry
from ktqueue.store.base import IdempotencyKey, JobQuery, LaneCensus, Queued, Quota, Store
from ktqueue.store.sql import SqlStore
from tests.contract.conftest import memory_store

Answer = TypeVar("Answer")

HOUR = 3_600_000
START = time.time_ns() // 1_000_000
LATER = START + HOUR
EARLIER = START - HOUR
JOBS = 8
NUMBERS = st.integers(0, JOBS)  # the last is of no job until it is added
GROUPS = st.lists(NUMBERS, min_size=1, max_size=5)
WHENS = st.sampled_from([None, EARLIER, LATER])
LEASES = st.sampled_from([-HOUR, 0, HOUR])
TOKENS = st.sampled_from(["red", "blue"])
LIMITS = st.dictionaries(st.sampled_from(["y", "key_y", "key_x"]), st.integers(0, 3))
"""How many jobs may run at once, of tenants and keys."""
FILTERS = st.one_of(
    st.builds(dict),
    st.builds(dict, states=st.lists(st.sampled_from(JobState), min_size=1, max_size=2)),
    st.builds(dict, model=st.sampled_from("abc")),
    st.builds(dict, metadata=st.sampled_from([{"k": "x"}, {"k": "y"}, {'q"': "x"}, {"a.b": "y", "k": "x"}])),
    st.builds(dict, ids=st.lists(NUMBERS.map("job_{}".format), min_size=1, max_size=3)),
    st.builds(dict, created_from=NUMBERS.map(lambda number: START - number * HOUR)),
    st.builds(dict, created_to=NUMBERS.map(lambda number: START - number * HOUR)),
    st.builds(dict, before=NUMBERS.map("job_{}".format)),
)


def job(number: int) -> Job:
    """One of each kind: due, scheduled, overdue, with time left; of two models."""
    return Job(
        id=f"job_{number}",
        model="b" if number in {3, 7} else "a",
        task=Task.ECHO,
        input={"n": number},
        params={},
        created_at=START - number * HOUR,
        rank=float(number % 3),
        metadata=[{}, {"k": "x"}, {"k": "x", "a.b": "y"}, {'q"': "x"}][number % 4],
        size=number,
        tenant="x" if number in {2, 6, 8} else "y",
        key={1: "key_y", 3: "key_y", 5: "key_z", 6: "key_x"}.get(number),
        run_at={4: EARLIER, 5: LATER}.get(number),
        deadline_at={6: LATER, 7: EARLIER}.get(number),
    )


def without_instants(each: Job) -> Job:
    """What the clock said becomes 1 where it said something."""
    return replace(
        each,
        started_at=each.started_at and 1,
        finished_at=each.finished_at and 1,
        lease_until=each.lease_until and 1,
    )


def comparable(answer: Any) -> Any:
    if isinstance(answer, Job):
        return without_instants(answer)
    if isinstance(answer, LaneCensus):
        return replace(answer, oldest_due_at=answer.oldest_due_at and 1)
    if isinstance(answer, Entry):
        return replace(answer, due_at=0)
    if isinstance(answer, Attempt):
        return replace(answer, started_at=1, ended_at=1)
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
        self.memory = memory_store()
        self.both(lambda store: store.add([job(number) for number in range(JOBS)]))

    def teardown(self) -> None:
        self.sql.close()
        self.folder.cleanup()

    def both(self, call: Callable[[Store], Answer]) -> Answer:
        answer = call(self.memory)
        assert comparable(call(self.sql)) == comparable(answer)
        return answer

    @rule(number=NUMBERS)
    def add(self, number: int) -> None:
        self.both(lambda store: store.add([job(number)]))

    @rule(number=NUMBERS, key=st.sampled_from("kl"), digest=st.sampled_from("de"))
    def add_once(self, number: int, key: str, digest: str) -> None:
        self.both(lambda store: store.add_once(job(number), IdempotencyKey(key, digest)))

    @rule(numbers=GROUPS, token=TOKENS, lease_ms=LEASES)
    def claim(self, numbers: list[int], token: str, lease_ms: int) -> None:
        ids = [f"job_{number}" for number in numbers]
        self.both(lambda store: store.claim(ids, token=token, worker="w", lease_ms=lease_ms))

    @rule(numbers=GROUPS, token=TOKENS, lane=st.none() | st.integers(0, 3), limits=LIMITS)
    def claim_within(self, numbers: list[int], token: str, lane: int | None, limits: dict[str, int]) -> None:
        ids = [f"job_{number}" for number in numbers]
        quota = Quota("a", lane, limits)
        claimed = self.both(lambda store: store.claim(ids, token=token, worker="w", lease_ms=HOUR, quota=quota))
        running = self.both(lambda store: store.running_by_owner())
        for owner, most in limits.items():
            assert running.get(owner, 0) <= most or not any(owner in each.owners for each in claimed)

    @rule(token=TOKENS, lease_ms=LEASES)
    def claim_all(self, token: str, lease_ms: int) -> None:
        self.claim(list(range(JOBS + 1)), token, lease_ms)

    @rule(limit=st.integers(1, 3), token=TOKENS, lease_ms=LEASES, limits=LIMITS)
    def claim_suspects(self, limit: int, token: str, lease_ms: int, limits: dict[str, int]) -> None:
        given = {"token": token, "worker": "w", "lease_ms": lease_ms, "quota": Quota("a", None, limits)}
        self.both(lambda store: store.claim_suspects("a", limit, **given))  # type: ignore[arg-type]

    @rule(numbers=GROUPS, token=TOKENS, lease_ms=LEASES)
    def renew(self, numbers: list[int], token: str, lease_ms: int) -> None:
        ids = [f"job_{number}" for number in numbers]
        self.both(lambda store: store.renew(token, ids, lease_ms=lease_ms))

    @rule(
        numbers=GROUPS,
        stale=st.sampled_from([False, False, False, True]),
        state=st.sampled_from([JobState.SUCCEEDED, JobState.FAILED, JobState.QUEUED, JobState.QUEUED]),
        run_at=WHENS,
        charged=st.booleans(),
        company=st.sampled_from([None, None, 1, 2]),
        crashes=st.integers(0, 2),
        only_lapsed=st.booleans(),
    )
    def finish(self, numbers: list[int], stale: bool, only_lapsed: bool, **values: Any) -> None:
        verdicts = [
            Verdict(
                self.fence(f"job_{number}", stale),
                result={"place": place},
                error=JobError("code", "message", retryable=True),
                usage=Usage(place, 2),
                largest_batch=len(numbers),
                **values,
            )
            for place, number in enumerate(numbers)
        ]
        self.both(lambda store: store.finish(verdicts, only_lapsed=only_lapsed))

    def fence(self, job_id: str, stale: bool) -> Fence:
        """What holds the job now, or one that is a claim behind."""
        now = self.memory.get(job_id)
        token, claim = ("red", 1) if now is None else (now.token or "red", now.claims)
        return Fence(job_id, token, claim - stale)

    @rule(number=NUMBERS)
    def cancel(self, number: int) -> None:
        self.both(lambda store: store.cancel(f"job_{number}"))

    @rule()
    def cancel_queued(self) -> None:
        self.both(lambda store: sorted(store.cancel_queued(Queued("b"), 50), key=lambda each: each.id))

    @rule(number=NUMBERS)
    def delete(self, number: int) -> None:
        self.both(lambda store: store.delete(f"job_{number}"))

    @rule(before=st.sampled_from([EARLIER, LATER, LATER]), after=NUMBERS, limit=st.integers(1, 4))
    def prune(self, before: int, after: int, limit: int) -> None:
        self.both(lambda store: store.prune(before, after=f"job_{after}" if after else "", limit=limit))

    @rule()
    def expire_and_wake(self) -> None:
        self.both(lambda store: sorted(store.expire(50), key=lambda each: each.id))
        self.both(lambda store: sorted(store.wake(50), key=lambda each: each.id))

    @rule(limit=st.integers(1, 4), after=st.none() | NUMBERS)
    def waiting(self, limit: int, after: int | None) -> None:
        place = None if after is None else Entry("a", f"job_{after}", float(after % 3), "", 0, 0, 0)
        self.both(lambda store: store.waiting("a", after=place, limit=limit))

    @rule(first=FILTERS, second=FILTERS, limit=st.integers(1, 5))
    def search(self, first: dict[str, Any], second: dict[str, Any], limit: int) -> None:
        self.both(lambda store: store.search(JobQuery(**first | second, limit=limit)))

    @invariant()
    def all_is_the_same(self) -> None:
        self.both(lambda store: store.census())
        self.both(lambda store: (store.tenant_census(), store.key_census()))
        self.both(lambda store: [store.has_suspects("a", tenants) for tenants in ({}, {"y": 1}, {"key_y": 1})])
        self.both(lambda store: sorted(store.holders(), key=lambda each: each.token))
        self.both(lambda store: [store.held(token) for token in ("red", "blue")])
        self.both(lambda store: [store.attempts(f"job_{number}") for number in range(JOBS + 1)])
        self.both(lambda store: sorted(store.lapsed(50), key=lambda each: each.id))
        for each in self.both(lambda store: store.search(JobQuery(limit=100))):
            assert 0 <= each.attempt <= each.claims
            assert (each.token is not None) == (each.state is JobState.RUNNING)
            assert (each.finished_at is not None) == each.state.terminal


def test_memory_and_sqlite_agree(migrated_file: Path) -> None:
    machine = type("Machine", (Stores,), {"template": migrated_file})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
