"""Breakers and the choice among servers, which are pure."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from worker.engines.upstream.balance import choose
from worker.engines.upstream.breaker import FAILURES, FIRST_S, LONGEST_S, Breaker, State


def well(concurrency: int = 8) -> Breaker:
    breaker = Breaker(concurrency)
    breaker.probed(0.0, well=True)
    return breaker


def test_a_server_is_asked_before_it_gets_anything() -> None:
    breaker = Breaker(8)
    assert (breaker.most, breaker.due(0.0)) == (0, True)
    breaker.probed(0.0, well=True)
    assert (breaker.state, breaker.most) == (State.CLOSED, 8)


def test_failures_in_a_row_open_it_and_a_success_in_between_does_not_count_on() -> None:
    breaker = well()
    for _ in range(FAILURES - 1):
        breaker.failed(1.0)
    breaker.succeeded()
    for _ in range(FAILURES - 1):
        breaker.failed(1.0)
    assert breaker.state is State.CLOSED
    breaker.failed(1.0)
    assert (breaker.state, breaker.most, breaker.until) == (State.OPEN, 0, 1.0 + FIRST_S)


def test_one_that_is_gone_opens_at_once() -> None:
    breaker = well()
    breaker.failed(1.0, gone=True)
    assert breaker.state is State.OPEN


def test_it_comes_back_by_one_request_and_then_warms_up() -> None:
    breaker = well(4)
    breaker.failed(0.0, gone=True)
    assert not breaker.due(FIRST_S / 2)
    assert breaker.due(FIRST_S)
    breaker.probed(FIRST_S, well=True)
    assert (breaker.state, breaker.most) == (State.HALF_OPEN, 1)
    allowed = []
    while breaker.state is not State.CLOSED:
        breaker.succeeded()
        allowed.append(breaker.most)
    assert allowed == [2, 3, 4]


def test_each_time_in_a_row_it_is_left_alone_for_twice_as_long() -> None:
    breaker, now, pauses = well(), 0.0, []
    breaker.failed(now, gone=True)
    for _ in range(10):
        pauses.append(breaker.until - now)
        now = breaker.until
        breaker.probed(now, well=True)
        breaker.failed(now)
    assert pauses[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert max(pauses) == LONGEST_S


def test_a_rest_is_no_reproach_but_ends_with_the_same_question() -> None:
    breaker = well(1)
    breaker.rest(0.0, 5.0)
    assert (breaker.most, breaker.due(4.9), breaker.due(5.0)) == (0, False, True)
    breaker.probed(5.0, well=True)
    breaker.succeeded()
    assert breaker.state is State.CLOSED


STEPS = st.lists(
    st.tuples(st.sampled_from(["good", "bad", "gone", "rest", "well", "ill"]), st.floats(0, 40)), max_size=60
)


@given(concurrency=st.integers(1, 9), steps=STEPS)
def test_whatever_happens_it_never_takes_too_much_and_can_always_come_back(
    concurrency: int, steps: list[tuple[str, float]]
) -> None:
    breaker, now = Breaker(concurrency), 0.0
    for step, later in steps:
        now += later
        match step:
            case "good":
                breaker.succeeded()
            case "bad" | "gone":
                breaker.failed(now, gone=step == "gone")
            case "rest":
                breaker.rest(now, 1.0)
            case _ if breaker.due(now):
                breaker.probed(now, well=step == "well")
        assert 0 <= breaker.most <= concurrency
        assert (breaker.most == 0) == (breaker.state in {State.NEW, State.OPEN})
    assert breaker.until <= now + LONGEST_S
    if breaker.due(now + LONGEST_S):
        breaker.probed(now + LONGEST_S, well=True)
    for _ in range(concurrency):
        breaker.succeeded()
    assert breaker.most == concurrency


@dataclass(frozen=True)
class Server:
    name: int
    work: int
    concurrency: int


SERVERS = st.lists(st.builds(Server, st.integers(), st.integers(0, 1000), st.integers(1, 64)), min_size=1, max_size=8)


@given(servers=SERVERS, tokens=st.integers(1, 1000))
def test_nobody_would_have_less_to_do_than_who_is_chosen(servers: list[Server], tokens: int) -> None:
    chosen = choose(servers, tokens)
    assert chosen is not None
    assert all(
        (chosen.work + tokens) / chosen.concurrency <= (each.work + tokens) / each.concurrency for each in servers
    )


def test_nobody_is_chosen_among_none() -> None:
    assert choose(list[Server](), 1) is None
