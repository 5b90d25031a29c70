"""Any sequence of calls: the lanes in memory and those in Redis must give the same answers all the way.

And what tenants are promised, over both. Instants are hours away from the present, for each has a clock of its own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import count, cycle
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ktqueue.errors import LanesUnavailable, StoreUnavailable
from ktqueue.fair import LOOK, TENANTS_ASKED, Ahead
from ktqueue.lanes.base import Lanes
from ktqueue.lanes.memory import MemoryLanes
from ktqueue.lanes.redis import RedisLanes
from ktqueue.priority_class import Entry
from ktqueue.redis_client import Client, connect
from ktqueue.turns import AGED_EVERY
from tests.support.scene import ended

Answer = TypeVar("Answer")

HOUR = 3_600_000
NUMBERS = st.integers(0, 30)
TENANTS = st.sampled_from(["a", "b-1", "c"])
KEYS = {"a": ("key_1", "key_2", "key_3"), "b-1": ("key_4",)}
OWNERS = st.sampled_from(["a", "b-1", "c", "key_1", "key_2", "key_4"])
PRIORITIES = st.sampled_from([0, 4, 5, 9])
COSTS = st.integers(1, 1_000)


def now() -> int:
    return time.time_ns() // 1_000_000


def entry(
    number: int,
    tenant: str = "a",
    *,
    priority: int = 5,
    cost: int = 1,
    rank: float | None = None,
    age_ms: int = 0,
    key: str | None = None,
) -> Entry:
    place = float(number) if rank is None else rank
    return Entry("m", f"job_{number:08}", place, tenant, priority, cost, now() - age_ms, key)


BOUNDED = {f"key_{number}" for number in range(1, 200)}
"""All but `key_0`, say."""


def memory_lanes() -> MemoryLanes:
    return MemoryLanes(lambda _: None, now, lambda: BOUNDED)


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with connect(redis_url) as opened:
        yield opened


@pytest.fixture
def rung() -> list[str]:
    """The models whose bell was sent."""
    return []


@pytest.fixture(params=["memory", "redis"])
def lanes(request: pytest.FixtureRequest, rung: list[str]) -> Lanes:
    if request.param == "memory":
        return MemoryLanes(rung.append, now, lambda: BOUNDED)
    return RedisLanes(request.getfixturevalue("client"), rung.append, lambda: BOUNDED)


# --- any history -----------------------------------------------------------------------------------------------


class Pair(RuleBasedStateMachine):
    """Lanes in memory and in Redis: calls both and compares."""

    client: Client

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.redis = RedisLanes(self.client, lambda _: None, self.bounds)
        self.memory = MemoryLanes(lambda _: None, now, self.bounds)

    def bounds(self) -> Collection[str]:
        return ()

    def both(self, call: Callable[[Lanes], Answer]) -> Answer:
        answer = call(self.memory)
        assert call(self.redis) == answer
        return answer

    def teardown(self) -> None:
        self.both(lambda lanes: lanes.pull("m", 1_000))
        assert set(self.client.scan_iter("ktq:[wqtdk]*:m*")) == set()


class BothLanes(Pair):
    """A few tenants, with keys, most of them bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.bounded = {"key_1", "key_2", "key_4"}
        self.entries: dict[str, Entry] = {}

    def bounds(self) -> Collection[str]:
        return self.bounded

    @rule(
        numbers=st.lists(NUMBERS, min_size=1, max_size=8),
        tenant=TENANTS,
        keys=st.lists(st.integers(0, 3), min_size=1, max_size=3),
        priority=PRIORITIES,
        cost=COSTS,
        rank=st.sampled_from([None, 3.0, 0.1]),
        age_ms=st.sampled_from([0, 0, 2 * HOUR]),
    )
    def add(self, numbers: list[int], tenant: str, keys: list[int], **given: Any) -> None:
        theirs = (None, *KEYS.get(tenant, ()))
        names = cycle(theirs[min(key, len(theirs) - 1)] for key in keys)
        entries = [entry(number, tenant, key=name, **given) for number, name in zip(numbers, names, strict=False)]
        self.entries |= {each.id: each for each in entries}
        self.both(lambda lanes: lanes.add(entries))

    @rule(keys=st.sets(st.sampled_from([key for theirs in KEYS.values() for key in theirs])))
    def bound(self, keys: set[str]) -> None:
        """From now on; what is there already stays where it lies."""
        self.bounded = keys

    @rule(limit=st.integers(0, 6), left=st.just({}) | st.dictionaries(OWNERS, st.integers(0, 3)))
    def pull(self, limit: int, left: dict[str, int]) -> None:
        lain = {each.id: each.queue for each in self.memory._lane("m").queue._entries.values()}
        ids = self.both(lambda lanes: lanes.pull("m", limit, left))
        pulled = Counter(self.entries[job_id].tenant for job_id in ids)
        pulled += Counter(lain[job_id] for job_id in ids if lain[job_id].startswith("key_"))
        assert all(pulled[owner] <= most for owner, most in left.items())
        self.both(lambda lanes: [lanes.freed([owner]) for owner in ("a", "b-1", "key_1", "key_2", "key_4")])

    @rule(limit=st.integers(1, 6), back=st.integers(0, 6))
    def put_back(self, limit: int, back: int) -> None:
        ids = self.both(lambda lanes: lanes.pull("m", limit))
        entries = [self.entries[job_id] for job_id in ids[:back]]
        self.both(lambda lanes: lanes.put_back(entries))

    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        self.both(lambda lanes: lanes.remove("m", entry(number).id))

    @rule(number=NUMBERS)
    def ahead(self, number: int) -> None:
        self.both(lambda lanes: lanes.ahead("m", entry(number).id))

    @rule(
        tenant=st.sampled_from(["a", "c", "new"]),
        key=st.sampled_from([None, "key_1", "key_2"]),
        priority=PRIORITIES,
        rank=st.sampled_from([0.0, 2.5, 99.0]),
    )
    def ahead_of(self, tenant: str, key: str | None, priority: int, rank: float) -> None:
        wanted = entry(10**7, tenant, priority=priority, rank=rank, key=key if tenant == "a" else None)
        self.both(lambda lanes: lanes.ahead_of(wanted))

    @rule(tenant=TENANTS, priority=PRIORITIES, estimate=COSTS, cost=COSTS)
    def count_finished(self, tenant: str, priority: int, estimate: int, cost: int) -> None:
        told = ended(1, tenant=tenant, priority=priority, estimate=estimate, cost=cost)
        self.both(lambda lanes: lanes.count_finished("m", told))

    @rule(weights=st.dictionaries(TENANTS, st.sampled_from([0.5, 2.0, 0.1, 3.0])))
    def tell_weights(self, weights: dict[str, float]) -> None:
        self.both(lambda lanes: lanes.tell_weights(weights))

    @invariant()
    def all_is_the_same(self) -> None:
        self.both(lambda lanes: lanes.missing("m", [entry(number).id for number in range(31)]))
        self.both(lambda lanes: (lanes.view("m").depth, lanes.view("m").cost))

    @precondition(lambda self: self.memory.view("m").depth > 5)
    @rule()
    def foretell_all(self) -> None:
        for number in range(31):
            self.ahead(number)


def test_memory_and_redis_agree_on_any_history(client: Client) -> None:
    BothLanes.client = client
    run_state_machine_as_test(
        BothLanes,
        settings=settings(
            max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


CROWD = [f"tenant-{number}" for number in range(10)]


class Crowd(Pair):
    """More tenants than a pull has turns, none of them bounded; most of them with a job or two."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = count()

    @rule(
        tenants=st.lists(st.sampled_from(CROWD), min_size=5, max_size=20),
        costs=st.lists(COSTS, min_size=1, max_size=3),
        priority=st.sampled_from([5, 5, 5, 0, 9]),
    )
    def add(self, tenants: list[str], costs: list[int], priority: int) -> None:
        jobs = zip(self.numbers, tenants, cycle(costs))
        entries = [entry(number, tenant, cost=cost, priority=priority) for number, tenant, cost in jobs]
        self.both(lambda lanes: lanes.add(entries))

    @rule(limit=st.integers(1, 12))
    def pull(self, limit: int) -> None:
        self.both(lambda lanes: lanes.pull("m", limit))

    @rule(tenant=st.sampled_from(CROWD), estimate=COSTS, cost=COSTS)
    def count_finished(self, tenant: str, estimate: int, cost: int) -> None:
        told = ended(1, tenant=tenant, priority=5, estimate=estimate, cost=cost)
        self.both(lambda lanes: lanes.count_finished("m", told))

    @rule(weights=st.dictionaries(st.sampled_from(CROWD), st.sampled_from([0.5, 2.0, 0.1, 3.0])))
    def tell_weights(self, weights: dict[str, float]) -> None:
        self.both(lambda lanes: lanes.tell_weights(weights))

    @invariant()
    def all_is_the_same(self) -> None:
        self.both(lambda lanes: (lanes.view("m").depth, lanes.view("m").cost))
        self.both(lambda lanes: [lanes.ahead_of(entry(10**7, tenant)) for tenant in (CROWD[0], CROWD[9], "new")])


def test_they_agree_on_a_crowd(client: Client) -> None:
    Crowd.client = client
    run_state_machine_as_test(
        Crowd,
        settings=settings(
            max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.parametrize("tenants", [1, 7, 2 * TENANTS_ASKED])
def test_they_agree_on_long_lanes(client: Client, tenants: int) -> None:
    memory, redis = memory_lanes(), RedisLanes(client, lambda _: None, lambda: BOUNDED)
    jobs = 5 * LOOK

    def one(n: int) -> Entry:
        whose = n * n % tenants
        key = f"key_{1 + whose}" if n % 3 else None
        priority = 5 + (n % 10 == 0)
        return entry(n, f"t{whose:03}", cost=1 + n % 13, priority=priority, age_ms=HOUR * (n % 2), key=key)

    entries = [one(n) for n in range(jobs)]
    for each in (memory, redis):
        each.tell_weights({"t001": 2.5})
        each.add(entries)
    everybody = {f"t{n:03}": 0 for n in range(0, tenants, 3)} | {f"key_{n}": n % 3 for n in range(1, tenants, 2)}
    for left in ({}, everybody):
        assert redis.pull("m", 20, left) == memory.pull("m", 20, left)
        for n in range(0, jobs, 31):
            assert redis.ahead("m", entries[n].id) == memory.ahead("m", entries[n].id)
    while ids := memory.pull("m", 64):
        assert redis.pull("m", 64) == ids
    assert redis.pull("m", 64) == []


# --- what tenants are promised ---------------------------------------------------------------------------------


def test_twice_the_weight_is_twice_the_share(lanes: Lanes) -> None:
    lanes.tell_weights({"a": 2.0})
    lanes.add([entry(n, "ab"[n % 2], cost=1 + n % 7) for n in range(600)])

    ids = [job_id for _ in range(5) for job_id in lanes.pull("m", 60)]
    shares: Counter[int] = Counter()
    for job_id in ids:
        number = int(job_id[4:])
        shares[number % 2] += 1 + number % 7
    assert shares[0] / shares[1] == pytest.approx(2, rel=0.03)


def test_a_backlog_delays_another_by_one_turn(lanes: Lanes) -> None:
    lanes.add([entry(n) for n in range(2_000)])
    lanes.pull("m", 64)
    lanes.add([entry(10_000, "b")])

    ahead = lanes.ahead("m", entry(10_000).id)
    assert ahead is not None
    assert ahead.jobs <= 1
    assert entry(10_000).id in lanes.pull("m", 2)


def test_what_jobs_did_cost_is_what_is_shared(lanes: Lanes) -> None:
    lanes.add([entry(n, "ab"[n % 2], cost=10) for n in range(200)])
    lanes.pull("m", 2)
    lanes.count_finished("m", ended(1, tenant="a", estimate=10, cost=100))

    assert {int(job_id[4:]) % 2 for job_id in lanes.pull("m", 8)} == {1}


def test_an_aged_class_has_its_turns(lanes: Lanes) -> None:
    lanes.add([entry(n, priority=0, age_ms=HOUR) for n in range(100)])
    lanes.add([entry(1_000 + n, "b", priority=9) for n in range(100)])

    ids = [job_id for _ in range(8) for job_id in lanes.pull("m", 5)]
    assert sum(job_id < entry(1_000).id for job_id in ids) == 40 // AGED_EVERY


def test_who_may_not_run_more_is_passed_over_and_owed_nothing_for_it(lanes: Lanes) -> None:
    lanes.add([entry(n, "ab"[n % 2]) for n in range(200)])
    for _ in range(30):
        lanes.pull("m", 1, {"a": 0})
    ids = [job_id for _ in range(10) for job_id in lanes.pull("m", 4)]

    assert sum(int(job_id[4:]) % 2 == 0 for job_id in ids) == pytest.approx(20, abs=1)


def test_of_whom_some_more_may_run_no_more_are_pulled_in_any_class(lanes: Lanes) -> None:
    lanes.add([entry(n, "a", priority=n % 10) for n in range(20)])
    lanes.add([entry(100 + n, "b", priority=0) for n in range(3)])

    ids = lanes.pull("m", 10, {"a": 2, "c": 0})
    assert sum(job_id < entry(100).id for job_id in ids) == 2
    assert len(ids) == 5
    assert lanes.pull("m", 10, {"a": 0}) == []
    assert len(lanes.pull("m", 100)) == 18


def test_many_who_may_not_run_more_hide_nobody(lanes: Lanes) -> None:
    lanes.add([entry(n, f"t{n}") for n in range(100)])
    lanes.add([entry(1_000, "z")])

    assert lanes.pull("m", 1, {f"t{n}": 0 for n in range(100)}) == [entry(1_000).id]


def test_an_aged_class_of_those_who_may_not_run_more_costs_no_turn(lanes: Lanes) -> None:
    lanes.add([entry(n, priority=0, age_ms=HOUR) for n in range(10)])
    lanes.add([entry(100 + n, "b", priority=9) for n in range(40)])

    assert lanes.pull("m", 40, {"a": 0}) == [entry(100 + n).id for n in range(40)]


def test_what_is_pulled_and_put_back_was_not_paid_for(lanes: Lanes) -> None:
    lanes.add([entry(n, "ab"[n % 2], cost=10) for n in range(100)])
    for _ in range(10):
        first = lanes.pull("m", 1, {"b": 0})
        lanes.put_back([entry(int(job_id[4:]), cost=10) for job_id in first])

    assert sum(int(job_id[4:]) % 2 for job_id in lanes.pull("m", 20)) == 10


@pytest.mark.parametrize("jobs", [20, 2_000])
def test_who_was_passed_over_is_ahead_of_nobody_else(lanes: Lanes, jobs: int) -> None:
    lanes.add([entry(n) for n in range(jobs)])
    lanes.add([entry(10_000 + n, "b", priority=priority) for n, priority in enumerate((5, 5, 4))])
    lanes.pull("m", 1, {"a": 0})

    ahead, last = (lanes.ahead("m", entry(number).id) for number in (10_001, 10_002))
    assert (ahead, last) == (Ahead(0, 0), Ahead(1, 1))
    own = lanes.ahead("m", entry(0).id)
    assert own is not None
    assert own.jobs <= 1


def test_lanes_that_passed_somebody_over_are_rung_once_more_may_run(lanes: Lanes, rung: list[str]) -> None:
    entries = [entry(1), entry(2, "b"), replace(entry(3), model="n"), replace(entry(4, "b"), model="o")]
    lanes.add(entries)
    assert [lanes.pull(model, 5, {"a": 0}) for model in "mno"] == [[entry(2).id], [], [entry(4).id]]
    for model in "mno":
        lanes.answer(model)
    rung.clear()
    assert lanes.freed(["b", "c"]) == set()
    assert rung == []
    assert lanes.freed(["b", "a"]) == {"m", "n"}
    assert sorted(rung) == ["m", "n"]
    lanes.answer("m")
    assert lanes.pull("m", 5) == [entry(1).id]
    lanes.freed(["a"])
    assert sorted(rung) == ["m", "n"]


def test_a_key_that_may_not_run_more_is_passed_over_and_its_tenants_others_are_not(lanes: Lanes) -> None:
    lanes.add([entry(n, key="key_1") for n in range(50)])
    lanes.add([entry(100 + n, key=key) for n, key in enumerate(("key_0", None, "key_2"))])
    lanes.add([entry(200, "b")])

    ids = lanes.pull("m", 10, {"key_1": 2})
    assert sorted(ids) == [entry(n).id for n in (0, 1, 100, 101, 102, 200)]
    assert lanes.pull("m", 10, {"key_1": 0}) == []
    assert lanes.pull("m", 3) == [entry(n).id for n in (2, 3, 4)]


def test_keys_change_no_share_and_no_order_of_a_tenant(lanes: Lanes) -> None:
    keys = (None, "key_0", "key_1", "key_2")
    lanes.add([entry(n, "ab"[n % 2], key=keys[n // 2 % 4] if n % 2 == 0 else None) for n in range(200)])

    numbers = [int(job_id[4:]) for job_id in lanes.pull("m", 100)]
    assert sorted(numbers) == list(range(100))
    for side in (0, 1):
        own = [number for number in numbers if number % 2 == side]
        assert own == sorted(own)


def test_a_tenant_all_of_whose_keys_may_not_run_more_is_owed_nothing_for_it(lanes: Lanes) -> None:
    lanes.add([entry(n, "ab"[n % 2], key="key_1" if n % 2 == 0 else None) for n in range(200)])
    for _ in range(30):
        lanes.pull("m", 1, {"key_1": 0})
    ids = [job_id for _ in range(10) for job_id in lanes.pull("m", 4)]

    assert sum(int(job_id[4:]) % 2 == 0 for job_id in ids) == pytest.approx(20, abs=1)


def test_who_has_jobs_left_in_one_queue_keeps_its_turn(lanes: Lanes) -> None:
    lanes.add([entry(1), entry(2, key="key_1"), entry(3, key="key_2"), entry(4, key="key_1")])
    for gone in (1, 3, 2):
        lanes.remove("m", entry(gone).id)

    assert lanes.pull("m", 5) == [entry(4).id]
    assert lanes.pull("m", 5) == []


@pytest.mark.parametrize("jobs", [20, 2_000])
def test_a_key_that_was_passed_over_is_ahead_of_nobody_else(lanes: Lanes, jobs: int) -> None:
    lanes.add([entry(n, key="key_1") for n in range(jobs)])
    lanes.add([entry(10_000), entry(10_001), entry(10_002, "b", priority=4)])
    lanes.pull("m", 1, {"key_1": 0})

    assert lanes.ahead("m", entry(10_001).id) == Ahead(0, 0, 0)
    assert lanes.ahead("m", entry(10_002).id) == Ahead(1, 1, 0)
    own = lanes.ahead("m", entry(7).id)
    assert own is not None
    assert (own.own, own.keys) == (7, 7)


def test_a_lane_that_passed_a_key_over_is_rung_once_more_may_run(lanes: Lanes, rung: list[str]) -> None:
    lanes.add([entry(1, key="key_1"), replace(entry(2, key="key_2"), model="n")])
    assert [lanes.pull(model, 5, {"key_1": 0}) for model in "mn"] == [[], [entry(2).id]]
    lanes.answer("m")
    rung.clear()
    assert lanes.freed(["a", "key_2"]) == set()
    assert lanes.freed(["key_1"]) == {"m"}
    assert rung == ["m"]


def test_what_lies_in_the_wrong_queue_is_put_back_into_the_right_one(lanes: Lanes) -> None:
    late = entry(1, key="key_200")
    lanes.add([late])
    BOUNDED.add("key_200")
    try:
        assert lanes.pull("m", 1, {"key_200": 0}) == [late.id]
        lanes.put_back([late])
        assert lanes.pull("m", 1, {"key_200": 0}) == []
        assert lanes.pull("m", 1, {"key_200": 1}) == [late.id]
    finally:
        BOUNDED.discard("key_200")


def test_while_nobody_knows_which_keys_are_bounded_only_jobs_without_one_come_in(client: Client) -> None:
    def away() -> set[str]:
        raise StoreUnavailable("away")

    made: list[Lanes] = [MemoryLanes(lambda _: None, now, away), RedisLanes(client, lambda _: None, away)]
    for lanes in made:
        lanes.add([entry(1)])
        with pytest.raises(LanesUnavailable):
            lanes.add([entry(2, key="key_1")])
        assert lanes.pull("m", 5) == [entry(1).id]


def test_a_lane_that_was_lost_begins_anew_with_all_equal(client: Client) -> None:
    lanes = RedisLanes(client, lambda _: None)
    lanes.add([entry(n) for n in range(100)])
    lanes.pull("m", 50)
    client.flushall()
    lanes.add([entry(1_000 + n, "ab"[n % 2]) for n in range(10)])

    assert lanes.pull("m", 4) == [entry(1_000 + n).id for n in range(4)]
