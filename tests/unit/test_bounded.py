"""A question that is waited for no longer than a bound."""

from __future__ import annotations

import threading

import pytest

from ktqueue.bounded import Bounded


def test_nobody_is_asked_twice_at_once() -> None:
    asked, go_on, over = list[int](), threading.Event(), threading.Event()

    def ask() -> int:
        asked.append(1)
        go_on.wait()
        over.set()
        return len(asked)

    bounded = Bounded(ask, most_s=0.01)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            bounded()
    assert len(asked) == 1
    go_on.set()
    over.wait()


def test_an_answer_that_came_late_is_told_to_who_asks_next() -> None:
    answers, go_on = iter([1, 2]), threading.Event()

    def ask() -> int:
        go_on.wait()
        return next(answers)

    hasty = Bounded(ask, most_s=0.01)
    with pytest.raises(TimeoutError):
        hasty()
    go_on.set()
    hasty._most_s = 60
    assert [hasty(), hasty()] == [1, 2]


def test_what_goes_wrong_is_told_and_then_it_is_asked_again() -> None:
    divisors = iter([0, 2])

    def ask() -> int:
        return 14 // next(divisors)

    bounded = Bounded(ask, most_s=60)
    with pytest.raises(ZeroDivisionError):
        bounded()
    assert bounded() == 7
