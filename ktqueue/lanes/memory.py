"""Lanes in this process's memory, for tests and single-process use."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from threading import Lock

from ktqueue.lanes.base import BACKLOG_MS, ROOM_MS, Backlog, Entry, LaneView
from ktqueue.lanes.pace import SPANS, pace, span_of
from ktqueue.room import Room

BELL_MS = 1_000
CANCELS_KEPT = 10_000


@dataclass(slots=True)
class _Lane:
    ranks: dict[str, float] = field(default_factory=dict)
    order: list[tuple[float, str]] = field(default_factory=list)
    bell_until: int = 0
    finished: Counter[int] = field(default_factory=Counter)
    cancels: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=CANCELS_KEPT))
    cancels_asked: int = 0

    def place(self, job_id: str, rank: float) -> None:
        self.take(job_id)
        self.ranks[job_id] = rank
        insort(self.order, (rank, job_id))

    def take(self, job_id: str) -> None:
        rank = self.ranks.pop(job_id, None)
        if rank is not None:
            del self.order[bisect_left(self.order, (rank, job_id))]


class MemoryLanes:
    """Thread-safe. ``bell(model)`` sends the wake-up, ``clock()`` is Unix milliseconds."""

    def __init__(self, bell: Callable[[str], None], clock: Callable[[], int]) -> None:
        self._bell = bell
        self._clock = clock
        self._lanes: defaultdict[str, _Lane] = defaultdict(_Lane)
        self._backlog: tuple[Backlog, int] | None = None
        self._rooms: dict[str, tuple[Room, int]] = {}
        self._lock = Lock()

    def ping(self) -> None:
        """Memory is always there."""

    def add(self, entries: Sequence[Entry]) -> None:
        """Add ids (idempotent) and ring the bell of each lane touched."""
        with self._lock:
            for entry in entries:
                self._lanes[entry.model].place(entry.id, entry.rank)
        for model in dict.fromkeys(entry.model for entry in entries):
            self.ring(model)

    def pull(self, model: str, limit: int) -> list[str]:
        """Take out up to ``limit`` ids, smallest rank first; no two callers get the same id."""
        with self._lock:
            lane = self._lanes[model]
            ids = [job_id for _, job_id in lane.order[: max(limit, 0)]]
            del lane.order[: len(ids)]
            for job_id in ids:
                del lane.ranks[job_id]
            return ids

    def remove(self, model: str, job_id: str) -> None:
        """Take one id out, if it is there."""
        with self._lock:
            self._lanes[model].take(job_id)

    def missing(self, model: str, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that the lane does not hold."""
        with self._lock:
            return [job_id for job_id in ids if job_id not in self._lanes[model].ranks]

    def position(self, model: str, job_id: str) -> int | None:
        """How many are ahead of this job; None if it is not in the lane."""
        with self._lock:
            lane = self._lanes[model]
            rank = lane.ranks.get(job_id)
            return None if rank is None else bisect_left(lane.order, (rank, job_id))

    def view(self, model: str) -> LaneView:
        """Depth and rate."""
        with self._lock:
            lane = self._lanes[model]
            return LaneView(len(lane.order), pace(lane.finished, self._clock()))

    def views(self, models: Collection[str]) -> dict[str, LaneView]:
        """The same of several lanes at once."""
        return {model: self.view(model) for model in models}

    def tell_backlog(self, backlog: Backlog) -> None:
        """Leave it for every process to read, for ``BACKLOG_MS``."""
        self._backlog = backlog, self._clock() + BACKLOG_MS

    def backlog(self) -> Backlog | None:
        """The one that was told last; None if that is too long ago."""
        told = self._backlog
        return told[0] if told is not None and self._clock() < told[1] else None

    def tell_room(self, model: str, room: Room) -> None:
        """Leave word of what one slot of a lane holds, for ``ROOM_MS``."""
        self._rooms[model] = room, self._clock() + ROOM_MS

    def rooms(self, models: Collection[str]) -> dict[str, Room]:
        """What a slot of each lane holds, as was told last; lanes of which it is not known are left out."""
        told = {model: self._rooms[model] for model in models if model in self._rooms}
        return {model: room for model, (room, until) in told.items() if self._clock() < until}

    def ring(self, model: str) -> None:
        """Wake a worker of this lane, unless a bell is already pending."""
        with self._lock:
            lane, now = self._lanes[model], self._clock()
            pending = now < lane.bell_until
            if not pending:
                lane.bell_until = now + BELL_MS
        if not pending:
            self._bell(model)

    def answer(self, model: str) -> None:
        """Note that the bell was heard: the next ``ring`` sends a new one."""
        with self._lock:
            self._lanes[model].bell_until = 0

    def count_finished(self, model: str, jobs: int) -> None:
        """Feed the lane's rate."""
        if jobs <= 0:
            return
        with self._lock:
            finished, present = self._lanes[model].finished, span_of(self._clock())
            finished[present] += jobs
            for span in [span for span in finished if span <= present - SPANS]:
                del finished[span]

    def ask_cancel(self, model: str, ids: Sequence[str]) -> None:
        """Tell the slots of a lane to drop jobs that are in their batch."""
        with self._lock:
            lane = self._lanes[model]
            for job_id in ids:
                lane.cancels_asked += 1
                lane.cancels.append((lane.cancels_asked, job_id))

    def cancels(self, model: str, after: str) -> tuple[list[str], str]:
        """Ids to drop that were asked for after the mark ``after`` ("" for all kept), and the new mark."""
        with self._lock:
            asked = [cancel for cancel in self._lanes[model].cancels if cancel[0] > int(after or 0)]
        return [job_id for _, job_id in asked], str(asked[-1][0]) if asked else after
