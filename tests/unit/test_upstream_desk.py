"""The desk: which request goes where, and what becomes of one that was not answered."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ktqueue.job import Task
from ktqueue.upstreams import Upstream
from worker.engines.base import Declined, Failed, Request
from worker.engines.upstream.desk import MOST_CALLS, Desk, Member, Verdict
from worker.engines.upstream.instance import Instance
from worker.engines.upstream.outcome import Ending, Outcome

DONE = Outcome(Ending.DONE)
BROKEN = Outcome(Ending.BROKEN, "it broke", over=False)
GONE = Outcome(Ending.GONE, "it is gone")
FOR_EVER = 1e12


def instance(most: int = 1, *, held: bool = True, rest_s: float = 5.0, **spec: Any) -> Instance:
    given: dict[str, Any] = {"url": "http://there/v1"} | ({"concurrency": most} if not spec else {}) | spec
    made = Instance(Upstream(**given), rest_s)
    made.breaker.probed(0.0, well=True)
    made.held_until = FOR_EVER if held else 0.0
    return made


def ask(job_id: str, **params: Any) -> Request:
    return Request(job_id, Task.GENERATE, {"prompt": "four"}, {"max_tokens": 9} | params)


def place(desk: Desk, now: float = 1.0) -> dict[str, Instance]:
    placed, verdicts = desk.place(now)
    assert verdicts == []
    return {member.request.id: there for member, there in placed}


def verdicts(desk: Desk, now: float = 1.0) -> list[Any]:
    placed, given = desk.place(now)
    assert placed == []
    return [verdict for _, verdict in given]


def test_each_goes_where_there_is_least_to_do() -> None:
    small, large = instance(2), instance(8)
    desk = Desk([small, large])
    for name in "abcde":
        desk.add(ask(name), 1.0)
    went = list(place(desk).values())
    assert (went.count(small), went.count(large)) == (1, 4)
    assert desk.capacity(1.0) == 5


def test_one_that_takes_one_at_a_time_gets_no_second_and_no_more_are_let_in() -> None:
    desk = Desk([instance(1)])
    first = desk.add(ask("a"), 1.0)
    desk.add(ask("b"), 1.0)
    assert list(place(desk)) == ["a"]
    assert (place(desk), desk.capacity(1.0)) == ({}, 0)
    assert desk.ended(first, desk.instances[0], DONE, 2.0) is None
    assert list(place(desk, 2.0)) == ["b"]


def test_what_fits_a_cache_goes_by_the_tokens_it_may_take() -> None:
    there = instance(max_batch_size=8, cache_lens=25)
    desk = Desk([there])
    for name in "abc":
        desk.add(ask(name), 1.0)
    assert sorted(place(desk)) == ["a", "b"]
    assert there.room.at_once(1, 9) == 2


def test_one_that_could_never_fit_fails_at_once() -> None:
    desk = Desk([instance(max_batch_size=8, cache_lens=25)])
    desk.add(ask("a", max_tokens=25), 1.0)
    [verdict] = verdicts(desk)
    assert isinstance(verdict, Failed)
    assert (verdict.error.code, verdict.error.retryable) == ("context_length_exceeded", False)


def test_what_no_server_knows_is_said_and_who_knows_it_gets_it() -> None:
    plain, knowing = instance(4), instance(url="http://v/v1", kind="vllm", concurrency=4)
    desk = Desk([plain, knowing])
    desk.add(ask("a", top_k=5), 1.0)
    assert place(desk) == {"a": knowing}
    alone = Desk([instance(4)])
    alone.add(ask("a", top_k=5), 1.0)
    [verdict] = verdicts(alone)
    assert "params.top_k" in verdict.error.message


def test_one_that_failed_moves_on_and_is_charged_after_enough_of_that() -> None:
    servers = [instance(4) for _ in range(5)]
    desk = Desk(servers)
    member, been = desk.add(ask("a"), 1.0), []
    verdict: Verdict | None = None
    while verdict is None:
        [there] = place(desk).values()
        been.append(there)
        verdict = desk.ended(member, there, BROKEN, 1.0)
    assert len(set(been)) == len(been) == MOST_CALLS
    assert isinstance(verdict[1], Failed)
    assert verdict[1].error.retryable


def test_one_that_was_told_of_can_not_be_begun_anew() -> None:
    desk = Desk([instance(4), instance(4)])
    member = desk.add(ask("a"), 1.0)
    [there] = place(desk).values()
    member.told = True
    verdict = desk.ended(member, there, BROKEN, 1.0)
    assert verdict is not None
    assert isinstance(verdict[1], Failed)


@pytest.mark.parametrize("how", [GONE, Outcome(Ending.BUSY), Outcome(Ending.ASTRAY), Outcome(Ending.LAPSED)])
def test_one_that_nobody_got_goes_back_uncharged_once_nobody_can_take_it(how: Outcome) -> None:
    servers = [instance(4), instance(4)]
    desk = Desk(servers)
    member = desk.add(ask("a"), 1.0)
    for _ in servers:
        [there] = place(desk).values()
        there.held_until = 0.0 if how.ending is Ending.LAPSED else FOR_EVER
        assert desk.ended(member, there, how, 1.0) is None
    assert verdicts(desk) == [Declined("a")]
    assert desk.capacity(1.0) == 0


def test_a_refusal_is_the_jobs_own_and_final() -> None:
    desk = Desk([instance(4), instance(4)])
    member = desk.add(ask("a"), 1.0)
    [there] = place(desk).values()
    verdict = desk.ended(member, there, Outcome(Ending.REFUSED, "too hot", "invalid_request"), 1.0)
    assert verdict is not None
    assert verdict[1] == Failed("a", Outcome(Ending.REFUSED, "too hot", "invalid_request").error(retryable=False))


def test_one_that_is_busy_is_left_alone_for_as_long_as_it_asked() -> None:
    there = instance(4)
    desk = Desk([there])
    member = desk.add(ask("a"), 1.0)
    place(desk)
    desk.ended(member, there, Outcome(Ending.BUSY, wait_s=30.0), 1.0)
    assert verdicts(desk) == [Declined("a")]
    assert (desk.capacity(30.9), desk.capacity(31.0)) == (0, 4)


@pytest.mark.parametrize("wait_s", [None, 0.0])
def test_one_that_is_busy_and_asks_for_no_rest_has_one_all_the_same(wait_s: float | None) -> None:
    there = instance(4)
    desk = Desk([there])
    member = desk.add(ask("a"), 1.0)
    place(desk)
    desk.ended(member, there, Outcome(Ending.BUSY, wait_s=wait_s), 1.0)
    assert verdicts(desk) == [Declined("a")]
    assert desk.capacity(1.0) == 0


def test_one_at_a_time_rests_after_a_call_that_was_left_and_is_asked_first() -> None:
    there = instance(1, rest_s=7.0)
    desk = Desk([there])
    member = desk.add(ask("a"), 1.0)
    place(desk)
    assert not there.wants_probe(FOR_EVER / 2, 5.0)
    desk.remove("a")
    assert desk.capacity(1.0) == 0
    desk.ended(member, there, Outcome(Ending.LAPSED, over=False), 2.0)
    assert [there.wants_probe(now, 5.0) for now in (8.9, 9.0)] == [False, True]
    assert desk.capacity(9.0) == 0
    there.probed(9.0, None)
    assert desk.capacity(9.0) == 1


def test_what_is_not_ours_is_not_used() -> None:
    desk = Desk([instance(4, held=False)])
    assert desk.capacity(1.0) == 0
    desk.add(ask("a"), 1.0)
    assert verdicts(desk) == [Declined("a")]
    assert desk.instances[0].as_told(1.0).state == "elsewhere"


class Machine(RuleBasedStateMachine):
    """Requests, answers and trouble in any order: nobody is lost, nobody gets more than he takes."""

    @initialize(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3), cache=st.booleans())
    def begin(self, sizes: list[int], cache: bool) -> None:
        extra: Any = {"max_batch_size": 3, "cache_lens": 25}
        self.servers = [instance(size, rest_s=1.0) for size in sizes] + ([instance(**extra)] if cache else [])
        self.desk = Desk(self.servers)
        self.now = 1.0
        self.asked = self.ended = 0
        self.cancelled: set[Member] = set()
        self.under_way: list[tuple[Member, Instance]] = []

    @precondition(lambda self: self.desk.capacity(self.now) > 0)
    @rule(tokens=st.integers(1, 20))
    def submit(self, tokens: int) -> None:
        self.desk.add(ask(f"r{self.asked}", max_tokens=tokens), self.now)
        self.asked += 1

    @rule()
    def look(self) -> None:
        placed, given = self.desk.place(self.now)
        self.under_way += placed
        self.ended += len(given)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), ending=st.sampled_from(Ending), over=st.booleans())
    def end(self, data: st.DataObject, ending: Ending, over: bool) -> None:
        which = data.draw(st.sampled_from(range(len(self.under_way))))
        member, there = self.under_way.pop(which)
        mine = self.desk.has(member)
        verdict = self.desk.ended(member, there, Outcome(ending, over=over), self.now)
        assert verdict is None or mine
        self.ended += mine and (verdict is not None or ending is Ending.DONE)

    @rule(number=st.integers(0, 50))
    def cancel(self, number: int) -> None:
        self.ended += self.desk.remove(f"r{number}") is not None

    @rule(seconds=st.floats(0, 40))
    def later(self, seconds: float) -> None:
        self.now += seconds
        for there in self.servers:
            if there.wants_probe(self.now, 5.0):
                assert not (there.one_at_a_time and there.calls)
                there.probed(self.now, None)

    @invariant()
    def nobody_has_too_much(self) -> None:
        for there in self.servers:
            assert len(there.calls) <= there.concurrency
            assert there.spec.cache_lens is None or there.work <= there.spec.cache_lens
        assert sum(len(there.calls) for there in self.servers) == len(self.under_way)

    @invariant()
    def nobody_is_lost(self) -> None:
        assert self.asked - self.ended == self.desk.held

    def teardown(self) -> None:
        """Once all is well again, whoever is still there is answered."""
        for _ in range(200):
            if not self.desk.held:
                return
            self.later(60.0)
            self.look()
            for member, there in self.under_way:
                self.ended += self.desk.has(member)
                assert self.desk.ended(member, there, DONE, self.now) is None
            self.under_way.clear()
        raise AssertionError("somebody waits for ever")


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
