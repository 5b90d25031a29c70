"""Whether a server is worth asking, by how it answered of late. Pure: time is given in, in seconds.

::

    NEW ──── answers ────────────────────────────▶ CLOSED ◀── as many successes ── WARMING
     │                                               │              as it takes       ▲  │
     └── does not ──▶ OPEN ◀── failures in a row ────┘                                │  │
                      │ ▲ ◀───────── any failure ─────────────────────────────────────┼──┘
       after a while  │ └─────────── any failure ── HALF_OPEN ── a success ───────────┘
       it answers     └────────────────────────────────▲
"""

from __future__ import annotations

from enum import StrEnum

FAILURES = 3
"""So many in a row, of requests that got through to it, and it is taken for ill."""
FIRST_S = 0.5
LONGEST_S = 30.0
"""Back-off doubles from the first to the longest."""


class State(StrEnum):
    """NEW was not asked yet; OPEN takes nothing; HALF_OPEN takes one request; WARMING more with each success."""

    NEW = "new"
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    WARMING = "warming"


class Breaker:
    """Of one server that takes ``concurrency`` requests at once."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._failures = 0
        self._openings = 0
        self._warm = 0
        self.state = State.NEW
        self.until = 0.0

    @property
    def most(self) -> int:
        """The most requests that it may have at once."""
        match self.state:
            case State.CLOSED:
                return self._concurrency
            case State.HALF_OPEN:
                return 1
            case State.WARMING:
                return self._warm
            case _:
                return 0

    def due(self, now: float) -> bool:
        """Whether it should be asked how it is, before anything else is sent there."""
        return self.state is State.NEW or (self.state is State.OPEN and now >= self.until)

    def succeeded(self) -> None:
        """A request was answered. One that was sent before it opened says nothing of how it is now."""
        if self.state is State.HALF_OPEN:
            self.state, self._warm = State.WARMING, 1
        if self.state is State.WARMING:
            self._warm += 1
            if self._warm >= self._concurrency:
                self.state, self._openings = State.CLOSED, 0
        self._failures = 0

    def failed(self, now: float, *, gone: bool = False) -> None:
        """A request was not answered; ``gone``: it did not even get there, so that the next need not try."""
        if self.state is State.OPEN:
            return
        self._failures += 1
        if gone or self.state is not State.CLOSED or self._failures >= FAILURES:
            self.open(now)

    def open(self, now: float, *, at_least_s: float = 0.0) -> None:
        """Take nothing for a while, twice as long each time until it has been well again."""
        pause_s = min(LONGEST_S, FIRST_S * 2.0**self._openings)
        self._openings = min(self._openings + 1, 16)
        self.rest(now, max(pause_s, at_least_s))

    def rest(self, now: float, seconds: float) -> None:
        """Take nothing for ``seconds``, without a reproach; then it is asked how it is."""
        self.state, self.until, self._failures = State.OPEN, max(self.until, now + seconds), 0

    def probed(self, now: float, *, well: bool) -> None:
        """It was asked how it is."""
        if not well:
            self.open(now)
        elif self.state is State.NEW:
            self.state = State.CLOSED
        elif self.due(now):
            self.state = State.HALF_OPEN
