"""Processes that run one call at a time: each waits before every call of a port until the scheduler lets it make it.

An actor is a greenlet, for a drain can only be interrupted from within, and a greenlet hands over in a microsecond. So
a run is a function of what the scheduler decides.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from greenlet import greenlet

from ktqueue.errors import KtqueueError
from worker.runner import EngineBroken


class Turn(Enum):
    """What becomes of the call that an actor waits to make."""

    MAKE = "it is made"
    KILL = "the process is killed before it"
    FAIL = "it is not made, and fails"
    LOSE = "it is made, and its answer is lost"


class Killed(BaseException):
    """SIGKILL. Not an Exception: nothing that is tested may catch it."""


class Actor:
    """One process of the service, or one client of it, doing ``body``."""

    def __init__(self, kind: str, body: Callable[[], object]) -> None:
        self.kind = kind
        self.ended = False
        self.pending = "start"
        self.answer: object = None
        self._body = body
        self._turn = Turn.MAKE
        self._greenlet = greenlet(self._run)
        self._scheduler = greenlet.getcurrent()

    def _run(self) -> None:
        try:
            if self._turn is not Turn.KILL:
                self.answer = self._body()
        except (Killed, KtqueueError, EngineBroken) as error:
            self.answer = error
        finally:
            self.ended = True

    def wait(self, call: str) -> Turn:
        """In the actor, before a call: wait for the next turn."""
        self.pending = call
        self._scheduler.switch()
        return self._turn

    def go(self, turn: Turn = Turn.MAKE) -> None:
        """In the scheduler: let the actor run until it waits again, or has ended; what it raises is raised here."""
        if self.ended:
            return
        self._turn = turn
        self._scheduler = self._greenlet.parent = greenlet.getcurrent()
        self._greenlet.switch()
