"""Who runs next."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ktqueue.rank import DEFAULT_PRIORITY, HEAD_START_MS, HIGHEST_PRIORITY, rank

INSTANTS = st.integers(0, 2**42)  # until the year 2109
PRIORITIES = st.integers(0, HIGHEST_PRIORITY)


@given(INSTANTS, INSTANTS, PRIORITIES)
def test_among_equals_the_one_that_came_first_goes_first(one: int, other: int, priority: int) -> None:
    assert (rank(one, priority) < rank(other, priority)) == (one < other)


@given(INSTANTS, PRIORITIES, PRIORITIES)
def test_of_two_that_came_together_the_higher_priority_goes_first(due_at: int, one: int, other: int) -> None:
    assert (rank(due_at, one) < rank(due_at, other)) == (one > other)


@given(INSTANTS, PRIORITIES, PRIORITIES, st.integers(0, 2**32))
def test_nothing_is_overtaken_by_what_comes_nine_head_starts_later(due_at: int, low: int, high: int, more: int) -> None:
    later = due_at + HIGHEST_PRIORITY * HEAD_START_MS + 1 + more

    assert rank(due_at, low) < rank(later, high)


@given(INSTANTS, st.integers(0, HIGHEST_PRIORITY - 1), st.integers(0, HEAD_START_MS - 1))
def test_a_step_of_priority_is_worth_a_head_start(due_at: int, priority: int, late: int) -> None:
    assert rank(due_at + late, priority + 1) < rank(due_at, priority)


@given(INSTANTS, PRIORITIES)
def test_a_rank_is_exact(due_at: int, priority: int) -> None:
    assert int(rank(due_at, priority)) == due_at + (HIGHEST_PRIORITY - priority) * HEAD_START_MS


def test_the_default_priority_leaves_room_on_both_sides() -> None:
    assert 0 < DEFAULT_PRIORITY < HIGHEST_PRIORITY
