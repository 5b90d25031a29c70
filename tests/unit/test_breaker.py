"""The breaker: open while a server is away, and nobody but its own thread asks whether it is back."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator

import pytest

from ktqueue.breaker import Breaker
from tests.support.stack import until

LOST = ConnectionError("connection refused")


class Server:
    """Answers as it is told to, and counts the questions."""

    def __init__(self) -> None:
        self.there = False
        self.asked: list[threading.Thread] = []

    def answers(self) -> bool:
        self.asked.append(threading.current_thread())
        return self.there


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def breaker(server: Server) -> Iterator[Breaker]:
    made = Breaker("this server", server.answers, pause_s=0.001)
    yield made
    made.end()
    watcher_is_gone()


def watcher_is_gone() -> None:
    """Wait for it: what the thread still says belongs to no other test."""
    until(lambda: not any(each.name == "watch this server" for each in threading.enumerate()), "the end of its thread")


def asked(server: Server, more: int = 1) -> Callable[[], bool]:
    enough = len(server.asked) + more
    return lambda: len(server.asked) >= enough


def test_a_server_that_answers_is_never_asked(breaker: Breaker, server: Server) -> None:
    assert not breaker.open
    assert server.asked == []


def test_open_until_the_server_answers_again(breaker: Breaker, server: Server) -> None:
    breaker.trip(LOST)
    until(asked(server, 3), "three questions")
    assert breaker.open
    server.there = True
    until(lambda: not breaker.open, "a closed breaker")
    server.there = False
    breaker.trip(LOST)
    assert breaker.open


def test_one_thread_asks_however_many_callers_fail(breaker: Breaker, server: Server) -> None:
    for _ in range(50):
        breaker.trip(LOST)
    until(asked(server, 3), "three questions")
    assert [thread.name for thread in set(server.asked)] == ["watch this server"]


def test_an_outage_is_told_once_at_either_end(
    breaker: Breaker, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ktqueue.breaker"):
        for _ in range(3):
            breaker.trip(LOST)
        server.there = True
        until(lambda: len(caplog.messages) == 2, "the end of the outage")
    assert caplog.messages[0] == "this server is away: connection refused"
    assert re.fullmatch(r"this server is back after \d+\.\d s", caplog.messages[1])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_question_that_goes_wrong_leaves_it_to_callers() -> None:
    def broken() -> bool:
        raise RuntimeError("asked wrongly")

    breaker = Breaker("this server", broken, pause_s=0.001)
    breaker.trip(LOST)
    until(lambda: not breaker.open, "a closed breaker")
    watcher_is_gone()


def test_ended_it_asks_no_more_and_stays_closed(breaker: Breaker, server: Server) -> None:
    breaker.trip(LOST)
    breaker.end()
    until(lambda: not breaker.open, "the end of its thread")
    breaker.trip(LOST)
    assert not breaker.open
