"""Guessing how a text goes on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.engines.causal.drafts import Drafts

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=60)


def told(text: list[int], most: int = 4, start: int = 1) -> list[list[int]]:
    """What is told while a text comes token by token, after its first ``start``."""
    drafts = Drafts(most)
    return [drafts.next(text[:end]) for end in range(start, len(text) + 1)]


@given(text=TOKENS, start=st.integers(1, 20), most=st.integers(0, 8))
def test_a_guess_is_what_followed_the_last_time(text: list[int], start: int, most: int) -> None:
    for end, guess in enumerate(told(text, most, start), start):
        assert len(guess) <= most
        if guess:
            before = text[:end]
            place = max(i for i in range(1, end - 1) if before[i - 1 : i + 1] == before[-2:])
            whole = before + guess
            assert guess == [whole[place + 1 + step] for step in range(len(guess))]


def test_guesses_grow_while_they_come_true_and_end_with_the_first_that_does_not() -> None:
    around = [1, 2, 3] * 8
    guesses = told([*around, 9, 1, 2, 3, 1])
    assert [len(guess) for guess in guesses] == [*[0] * 5, 1, 3, *[4] * 17, 0, 0, 0, 1, 0]
    assert guesses[9] == [2, 3, 1, 2]


def test_a_text_that_goes_round_is_guessed_to_go_on_so() -> None:
    assert told([7] * 9, most=5)[-1] == [7] * 5


def test_what_never_came_before_is_not_guessed() -> None:
    assert not any(told(list(range(50))))


def test_several_tokens_may_come_at_once() -> None:
    drafts = Drafts(4)
    text = [1, 2, 3, 4] * 10
    known, sizes = 9, []
    while known < len(text):
        draft = drafts.next(text[:known])
        assert draft == text[known : known + len(draft)]
        sizes.append(len(draft))
        known += len(draft) + 1
    assert sizes == [0, 1, 3, 4, 4, 4, 4, 4]
