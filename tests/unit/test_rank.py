"""The rank: what decides who runs next among a tenant's jobs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ktqueue.rank import DEFAULT_PRIORITY, DEFAULT_SLACK_MS, HIGHEST_PRIORITY, rank

INSTANTS = st.integers(0, 2**42)  # until the year 2109
SPANS = st.integers(1, 10 * DEFAULT_SLACK_MS)
RUNS = st.floats(0, 600_000)


@given(INSTANTS, INSTANTS)
def test_among_equals_the_one_that_came_first_goes_first(one: int, other: int) -> None:
    assert (rank(one) < rank(other)) == (one < other)


@given(INSTANTS, SPANS, SPANS)
def test_of_two_that_came_together_the_one_that_must_end_sooner_goes_first(due_at: int, one: int, other: int) -> None:
    first, second = rank(due_at, due_at + min(one, other)), rank(due_at, due_at + max(one, other))

    assert first <= second
    assert first < second or min(one, other) in {max(one, other), *range(DEFAULT_SLACK_MS, 11 * DEFAULT_SLACK_MS)}


@given(INSTANTS, SPANS, RUNS, RUNS)
def test_of_two_with_one_deadline_the_one_that_runs_longer_goes_first(
    due_at: int, span: int, short: float, more: float
) -> None:
    assert rank(due_at, due_at + span, short + more) <= rank(due_at, due_at + span, short)


@given(INSTANTS, SPANS, RUNS)
def test_a_deadline_moves_a_job_forward_and_never_back(due_at: int, span: int, run_ms: float) -> None:
    assert rank(due_at, due_at + span, run_ms) <= rank(due_at)


@given(INSTANTS, SPANS, st.integers(1, 2**32))
def test_nothing_is_overtaken_by_what_comes_a_slack_later(due_at: int, span: int, more: int) -> None:
    assert rank(due_at) < rank(due_at + DEFAULT_SLACK_MS + more, due_at + DEFAULT_SLACK_MS + more + span)


@given(INSTANTS, SPANS)
def test_a_rank_is_exact(due_at: int, span: int) -> None:
    assert int(rank(due_at, due_at + span)) == due_at + min(span, DEFAULT_SLACK_MS)


def test_the_default_priority_leaves_room_on_both_sides() -> None:
    assert 0 < DEFAULT_PRIORITY < HIGHEST_PRIORITY
