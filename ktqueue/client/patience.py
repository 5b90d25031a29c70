"""How long to wait between two looks. Pure but for the clock that is passed in."""

from __future__ import annotations

import math
from collections.abc import Callable

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
GROWTH = 1.5
PAUSE_PER_JOB_S = 0.0005
"""Between two rounds of `as_completed`: 10,000 jobs are looked at every 5 s at most, by 100 requests."""


class Patience:
    """The time-out of one wait, and its pauses where the server would not hold the request."""

    def __init__(self, clock: Callable[[], float], timeout_s: float | None) -> None:
        self._clock = clock
        self._until = math.inf if timeout_s is None else clock() + timeout_s
        self._next_pause = FIRST_PAUSE_S

    def left(self) -> float:
        """Seconds, 0 or more; infinite without a time-out."""
        return max(0.0, self._until - self._clock())

    def over(self) -> bool:
        """Whether the time is up."""
        return self.left() == 0.0

    def pause(self, *, held: float, asked: float, hint: float | None) -> float:
        """Seconds until the next long poll, after one that was ``held`` for some of the seconds ``asked``.

        None after one that was held; the server's own ``hint``, or longer and longer, after one that was not,
        because all its places for waiting are taken.
        """
        if held >= asked / 2:
            self._next_pause = FIRST_PAUSE_S
            return 0.0
        pause = self._next_pause if hint is None else hint
        self._next_pause = min(LONGEST_PAUSE_S, self._next_pause * GROWTH)
        return min(pause, self.left())


class Rounds:
    """The pace of looking at many jobs in rounds.

    ``thorough``: this round should ask for every job, to notice one that is gone, and not just for those that have
    ended. So is the first round, and each after a long time in which nothing happened.
    """

    def __init__(self) -> None:
        self.thorough = True
        self._pause = FIRST_PAUSE_S

    def pause(self, before: int, after: int) -> float:
        """Seconds until the next round, after one that began with ``before`` jobs pending and left ``after``."""
        self._pause = FIRST_PAUSE_S if after < before else min(LONGEST_PAUSE_S, self._pause * GROWTH)
        self.thorough = self._pause == LONGEST_PAUSE_S
        return max(self._pause, after * PAUSE_PER_JOB_S)
