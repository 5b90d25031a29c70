"""Lanes: for each model the ordered queue of job ids, and the bell that wakes an idle worker.

A lane only orders. Whatever it forgets is added again from the store, and adding twice is adding once.
Any method may raise LanesUnavailable.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ktqueue.room import Room


@dataclass(frozen=True, slots=True)
class Entry:
    """One job's place in its lane."""

    model: str
    id: str
    rank: float


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane at a glance. ``rate`` is jobs finished per second of late, None when too few did to say."""

    depth: int
    rate: float | None


BACKLOG_MS = 10_000
"""A backlog that is not told anew in this time is forgotten."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the store said at ``taken_at`` (its clock, Unix ms) and lanes can't know.

    ``later``: by lane, the queued jobs that it does not hold, for their time has not come or they run apart.
    ``size``: bytes of everything that is queued.
    """

    taken_at: int
    later: Mapping[str, int]
    size: int


ROOM_MS = 86_400_000
"""What slots of a lane hold is forgotten when none has told for this time."""


class Lanes(Protocol):
    """Ordered queues with a bell."""

    def ping(self) -> None:
        """Really ask the server; raises LanesUnavailable."""

    def add(self, entries: Sequence[Entry]) -> None:
        """Add ids (idempotent) and ring the bell of each lane touched."""

    def pull(self, model: str, limit: int) -> list[str]:
        """Take out up to ``limit`` ids, smallest rank first; no two callers get the same id."""

    def remove(self, model: str, job_id: str) -> None:
        """Take one id out, if it is there."""

    def missing(self, model: str, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that the lane does not hold."""

    def position(self, model: str, job_id: str) -> int | None:
        """How many are ahead of this job; None if it is not in the lane."""

    def view(self, model: str) -> LaneView:
        """Depth and rate."""

    def views(self, models: Collection[str]) -> dict[str, LaneView]:
        """The same of several lanes at once."""

    def tell_backlog(self, backlog: Backlog) -> None:
        """Leave it for every process to read, for ``BACKLOG_MS``."""

    def backlog(self) -> Backlog | None:
        """The one that was told last; None if that is too long ago."""

    def tell_room(self, model: str, room: Room) -> None:
        """Leave word of what one slot of a lane holds, for ``ROOM_MS``."""

    def rooms(self, models: Collection[str]) -> dict[str, Room]:
        """What a slot of each lane holds, as was told last; lanes of which it is not known are left out."""

    def ring(self, model: str) -> None:
        """Wake a worker of this lane, unless a bell is already pending."""

    def answer(self, model: str) -> None:
        """Note that the bell was heard: the next ``ring`` sends a new one."""

    def count_finished(self, model: str, jobs: int) -> None:
        """Feed the lane's rate."""

    def ask_cancel(self, model: str, ids: Sequence[str]) -> None:
        """Tell the slots of a lane to drop jobs that are in their batch."""

    def cancels(self, model: str, after: str) -> tuple[list[str], str]:
        """Ids to drop that were asked for after the mark ``after`` ("" for all kept), and the new mark."""
