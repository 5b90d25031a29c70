"""Processes that run one call at a time: each waits before every call of a port until the scheduler lets it make it.

An actor is a thread, for a drain can only be interrupted from within, but never do two run at once: the scheduler
hands over, and waits until it gets the turn back. So a run is a function of what the scheduler decides.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from threading import Semaphore, Thread

from ktqueue.errors import KtqueueError
from worker.runner import EngineBroken

PATIENCE_S = 60.0


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
        self._error: BaseException | None = None
        self._turn = Turn.MAKE
        self._mine, self._schedulers = Semaphore(0), Semaphore(0)
        Thread(target=self._run, daemon=True).start()
        self._schedulers.acquire()

    def _run(self) -> None:
        try:
            if self.wait("start") is not Turn.KILL:
                self.answer = self._body()
        except (Killed, KtqueueError, EngineBroken) as error:
            self.answer = error
        except BaseException as error:  # noqa: BLE001 - it is raised where the scheduler can see it
            self._error = error
        self.ended = True
        self._schedulers.release()

    def wait(self, call: str) -> Turn:
        """In the actor, before a call: wait for the next turn."""
        self.pending = call
        self._schedulers.release()
        self._mine.acquire()
        return self._turn

    def go(self, turn: Turn = Turn.MAKE) -> None:
        """In the scheduler: let the actor run until it waits again, or has ended."""
        if self.ended:
            return
        self._turn = turn
        self._mine.release()
        assert self._schedulers.acquire(timeout=PATIENCE_S), f"a {self.kind} waits for something that is no port"
        if self._error is not None:
            raise self._error
