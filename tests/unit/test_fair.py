"""Fair queuing: what tenants, classes and single jobs are promised, whatever else waits."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktqueue.fair import LOOK, TENANTS_ASKED, Ahead, FairQueue
from ktqueue.priority_class import Entry
from ktqueue.turns import AGE_MS, AGED_EVERY, age_of

NOW = 1_790_000_000_000
BATCH = 64
COSTS = st.integers(1, 1_000)


def entry(
    number: int,
    tenant: str = "a",
    *,
    priority: int = 5,
    cost: int = 1,
    due_at: int = NOW,
    rank: float | None = None,
) -> Entry:
    return Entry("m", f"job_{number:08}", float(number) if rank is None else rank, tenant, priority, cost, due_at)


def filled(*entries: Entry, weights: Mapping[str, float] | None = None) -> FairQueue:
    queue = FairQueue(lambda tenant: (weights or {}).get(tenant, 1.0))
    for each in entries:
        queue.put(each)
    return queue


def served(queue: FairQueue, entries: Sequence[Entry], until: int, batch: int = 1) -> Counter[str]:
    """Cost by tenant, once so much was served in all."""
    by_id = {each.id: each for each in entries}
    costs: Counter[str] = Counter()
    while costs.total() < until:
        for job_id in queue.pull(batch, NOW):
            costs[by_id[job_id].tenant] += by_id[job_id].cost
    return costs


def jain(shares: Sequence[float]) -> float:
    """1 where all are equal, 1/n where one has all (Jain, Chiu and Hawe 1984)."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


# --- between tenants -------------------------------------------------------------------------------------------


@given(
    costs=st.lists(st.tuples(COSTS, COSTS), min_size=20, max_size=100),
    weights=st.tuples(st.sampled_from([1.0, 2.0, 3.5]), st.sampled_from([1.0, 0.25])),
    turns=st.integers(1, 200),
)
def test_while_two_wait_neither_gets_ahead_by_more_than_its_largest_job_and_the_others(
    costs: list[tuple[int, int]], weights: tuple[float, float], turns: int
) -> None:
    """Theorem 1 of the paper, at every moment at which both have jobs."""
    ours = [entry(n, "a", cost=cost) for n, (cost, _) in enumerate(costs)]
    theirs = [entry(1_000 + n, "b", cost=cost) for n, (_, cost) in enumerate(costs)]
    by_id = {each.id: each for each in (*ours, *theirs)}
    queue = filled(*by_id.values(), weights=dict(zip("ab", weights, strict=True)))
    bound = sum(max(each.cost for each in side) / weight for side, weight in zip((ours, theirs), weights, strict=True))
    work: Counter[str] = Counter()
    left = Counter(a=len(ours), b=len(theirs))
    for _ in range(turns):
        [job_id] = queue.pull(1, NOW)
        tenant = by_id[job_id].tenant
        work[tenant] += by_id[job_id].cost
        left[tenant] -= 1
        if not left[tenant]:
            return
        assert abs(work["a"] / weights[0] - work["b"] / weights[1]) <= bound + 1e-6


@pytest.mark.parametrize("batch", [1, 7, BATCH])
def test_twice_the_weight_is_twice_the_cost_served(batch: int) -> None:
    random = Random(batch)
    entries = [entry(n, "ab"[n % 2], cost=random.randint(1, 1_000)) for n in range(8_000)]
    queue = filled(*entries, weights={"a": 2.0})

    costs = served(queue, entries, 1_500_000, batch)
    assert costs["a"] / costs["b"] == pytest.approx(2, rel=0.03)


def test_ten_equals_have_equal_shares_though_their_jobs_differ() -> None:
    random = Random(1)
    entries = [entry(n, str(n % 10), cost=random.randint(1, 100 + 200 * (n % 10))) for n in range(20_000)]

    costs = served(filled(*entries), entries, 800_000)
    assert jain([costs[str(tenant)] for tenant in range(10)]) >= 0.99


@given(backlog=st.integers(1, 300), pulled=st.integers(0, 200), cost=COSTS, age_ms=st.integers(0, 10 * AGE_MS))
def test_one_who_comes_is_next_whatever_another_has_waiting(backlog: int, pulled: int, cost: int, age_ms: int) -> None:
    queue = filled(*(entry(n, cost=cost) for n in range(backlog)))
    queue.pull(pulled, NOW)
    queue.put(entry(1_000, "b", due_at=NOW + age_ms))

    assert entry(1_000).id in queue.pull(2, NOW + age_ms)


def test_a_backlog_of_a_hundred_thousand_delays_another_by_no_more_than_a_batch() -> None:
    queue = filled(*(entry(n) for n in range(100_000)))
    queue.pull(BATCH, NOW)
    late = NOW + 100 * AGE_MS
    queue.put(entry(200_000, "b", due_at=late))

    assert entry(200_000).id in queue.pull(BATCH, late)


def test_one_who_comes_back_has_no_credit_from_its_absence() -> None:
    queue = filled(*(entry(n) for n in range(200)))
    queue.pull(100, NOW)
    for n in range(100):
        queue.put(entry(1_000 + n, "b"))

    tenants = ["b" if job_id >= entry(1_000).id else "a" for job_id in queue.pull(20, NOW)]
    assert Counter(tenants) == {"a": 10, "b": 10}


def test_one_who_leaves_for_a_moment_has_not_escaped_what_it_owes() -> None:
    queue = filled(entry(1, cost=1_000), *(entry(100 + n, "b", cost=10) for n in range(300)))
    queue.pull(1, NOW)
    queue.put(entry(2))

    assert queue.pull(100, NOW) == [entry(100 + n).id for n in range(100)]
    assert entry(2).id in queue.pull(2, NOW)


def test_where_nobody_waits_all_begin_equal() -> None:
    queue = filled(entry(1, cost=1_000_000))
    queue.pull(1, NOW)
    for n in range(10):
        queue.put(entry(10 + n, "ab"[n % 2]))

    assert queue.pull(4, NOW) == [entry(10 + n).id for n in range(4)]


# --- what a job really cost ------------------------------------------------------------------------------------


def test_shares_are_of_true_cost_once_that_is_known() -> None:
    """One tenant's jobs cost a tenth of what was estimated, the other's what was."""
    entries = [entry(n, "ab"[n % 2], cost=1_000 if n % 2 else 100) for n in range(8_000)]
    true = Counter[str]()
    queue = filled(*entries)
    by_id = {each.id: each for each in entries}
    running: deque[Entry] = deque()
    while true.total() < 400_000:
        running += [by_id[job_id] for job_id in queue.pull(1, NOW)]
        if len(running) > 8:
            ended = running.popleft()
            true[ended.tenant] += 100
            queue.correct(ended.tenant, ended.priority, 100 - ended.cost)
    assert true["a"] / true["b"] == pytest.approx(1, rel=0.03)


def test_a_correction_outlives_a_moment_without_jobs_but_is_no_credit() -> None:
    queue = filled(entry(1), *(entry(100 + n, "b", cost=10) for n in range(100)))
    queue.pull(1, NOW)
    queue.correct("a", 5, 199)
    queue.put(entry(2))
    assert len(queue.pull(20, NOW)) == 20
    assert entry(2).id in queue.pull(2, NOW)

    queue.correct("a", 5, -1_000)
    queue.put(entry(3))
    queue.put(entry(4))
    assert Counter(job_id < entry(100).id for job_id in queue.pull(3, NOW))[True] < 3


def test_a_correction_where_nobody_waits_is_void() -> None:
    queue = filled()
    queue.correct("a", 5, 1_000)
    queue.put(entry(1))
    queue.put(entry(2, "b"))

    assert queue.pull(2, NOW) == [entry(1).id, entry(2).id]


# --- between classes -------------------------------------------------------------------------------------------


def test_the_higher_class_goes_first() -> None:
    queue = filled(entry(1, priority=0), entry(2, priority=9), entry(3, "b", priority=5), entry(4, priority=5))

    assert queue.pull(9, NOW) == [entry(n).id for n in (2, 4, 3, 1)]


@given(low=st.integers(0, 8), load=st.integers(1, 8), lows=st.integers(1, 3))
def test_the_lowest_starts_within_its_ageing_bound_under_constant_load(low: int, load: int, lows: int) -> None:
    """While every higher class has more than can be run, and those between are aged by and by as well."""
    numbers = count()
    queue = filled(*(entry(next(numbers), "low", priority=low) for _ in range(lows)))
    waits = [entry(n).id for n in range(lows)]
    now = NOW
    while now < NOW + age_of(low):
        for priority in range(low + 1, 10):
            for _ in range(load):
                queue.put(entry(next(numbers), str(priority), priority=priority, due_at=now))
        assert not set(queue.pull(load, now)) & set(waits)
        now += AGE_MS // 4
    assert set(waits) <= set(queue.pull(AGED_EVERY * (9 - low) * lows, NOW + age_of(low)))


def test_an_aged_backlog_takes_no_more_than_its_turns() -> None:
    late = NOW + 100 * AGE_MS
    backlog = [entry(n, priority=0) for n in range(1_000)]
    higher = [entry(10_000 + n, "b", priority=9, due_at=late) for n in range(1_000)]
    ids = filled(*backlog, *higher).pull(400, late)

    assert sum(job_id < higher[0].id for job_id in ids) == 400 // AGED_EVERY


def test_aged_classes_take_turns() -> None:
    late = NOW + 100 * AGE_MS
    entries = [entry(n, priority=n % 3) for n in range(300)] + [entry(1_000 + n, priority=9) for n in range(300)]
    ids = filled(*entries).pull(120, late)

    lower = [job_id for job_id in ids if job_id < entry(1_000).id]
    assert Counter(int(job_id[4:]) % 3 for job_id in lower) == {0: 10, 1: 10, 2: 10}


@given(
    crowd=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.integers(1, 50)), max_size=30),
    tenant=st.sampled_from("abcd"),
    priority=st.integers(0, 9),
    seed=st.integers(0, 1_000),
)
def test_nothing_starves(crowd: list[tuple[str, int, int]], tenant: str, priority: int, seed: int) -> None:
    """Whatever came with it, and whatever keeps coming, a job is pulled in the end: its tenant's others go before it,
    and for what they cost others have as much each.
    """
    random, numbers = Random(seed), count(1)
    queue = filled(*(entry(next(numbers), their, priority=each, cost=cost) for their, each, cost in crowd))
    queue.put(entry(0, tenant, priority=priority, rank=50.0))
    paid_before = sum(cost for their, each, cost in crowd if (their, each) == (tenant, priority))
    now = NOW
    while entry(0).id in queue:
        assert now < NOW + 3_600_000 + 40 * 2_000 * paid_before
        now += 2_000
        queue.put(entry(next(numbers), random.choice("abe"), priority=random.choice([0, 5, 9, 9]), due_at=now))
        queue.pull(1, now)


# --- within a tenant, and places -------------------------------------------------------------------------------


def test_within_a_tenant_the_smaller_rank_goes_first_and_then_the_smaller_id() -> None:
    queue = filled(entry(3, rank=7.0), entry(1, rank=9.0), entry(2, rank=7.0), entry(9, rank=-1.0))

    assert queue.pull(9, NOW) == [entry(n).id for n in (9, 2, 3, 1)]


CROWD = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from([0, 4, 5, 9]),
        st.integers(1, 50),
        st.sampled_from([0, 100 * AGE_MS]),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=60,
)


@given(crowd=CROWD, pulled=st.integers(0, 30), here=st.booleans(), pick=st.integers(0, 1_000))
def test_a_place_is_what_then_happens(
    crowd: list[tuple[str, int, int, int, int]], pulled: int, here: bool, pick: int
) -> None:
    """Of one that waits, and of one that is only asked for."""
    entries = [
        entry(n, tenant, priority=priority, cost=cost, due_at=NOW - age, rank=float(rank))
        for n, (tenant, priority, cost, age, rank) in enumerate(crowd)
    ]
    queue = filled(*entries, weights={"a": 2.0, "b": 0.5})
    gone = set(queue.pull(pulled, NOW))
    left = [each for each in entries if each.id not in gone]
    if not left:
        return
    asked = left[pick % len(left)]
    if not here:
        queue.take(asked.id)
        # One that comes now makes no class aged.
        asked = replace(asked, due_at=NOW)
    foretold = queue.ahead(asked, NOW)
    queue.put(asked)
    ids = queue.pull(len(left), NOW)

    before = [each for each in entries if each.id in ids[: ids.index(asked.id)]]
    own = sum((each.tenant, each.priority) == (asked.tenant, asked.priority) for each in before)
    assert foretold == Ahead(len(before), sum(each.cost for each in before), own)


@pytest.mark.parametrize("tenants", [1, 4, 3 * TENANTS_ASKED])
def test_a_far_place_is_told_from_averages(tenants: int) -> None:
    jobs = 12 * LOOK
    entries = [entry(n, f"t{n % tenants:03}", cost=3) for n in range(jobs)]
    higher = [entry(jobs + n, priority=6, cost=7) for n in range(LOOK)]
    queue = filled(*entries, *higher)
    ids = queue.pull(jobs + LOOK, NOW)
    queue = filled(*entries, *higher)

    asked = entries[jobs // 2]
    foretold = queue.ahead(asked, NOW)
    assert foretold.jobs == pytest.approx(ids.index(asked.id), rel=0.1)
    assert foretold.cost == pytest.approx(3 * (foretold.jobs - LOOK) + 7 * LOOK)


def test_adding_again_is_adding_once_and_a_new_rank_moves_a_job() -> None:
    queue = filled(entry(1), entry(2), entry(1), entry(2, rank=0.5))

    assert (len(queue), queue.cost, entry(1).id in queue, queue.get(entry(3).id)) == (2, 2, True, None)
    assert queue.pull(5, NOW) == [entry(2).id, entry(1).id]
    assert (len(queue), queue.cost, entry(1).id in queue) == (0, 0, False)


def test_what_is_taken_out_is_not_pulled() -> None:
    queue = filled(entry(1), entry(2), entry(3, "b"))
    for number in (1, 3, 4):
        queue.take(entry(number).id)

    assert queue.pull(5, NOW) == [entry(2).id]
    assert queue.pull(0, NOW) == queue.pull(-1, NOW) == []
