"""Lanes in this process's memory, for tests and single-process use."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from ktqueue.fair import Ahead, FairQueue
from ktqueue.lanes.accuracy import KEPT, Accuracy, accuracy_of, error_of
from ktqueue.lanes.base import BACKLOG_MS, ROOM_MS, Backlog, Bounded, Ended, LaneView, placed, sums_of
from ktqueue.lanes.pace import SPANS, Service, pace, span_of
from ktqueue.priority_class import Entry
from ktqueue.room import Room
from ktqueue.tenant import NOBODY

BELL_MS = 1_000
CANCELS_KEPT = 10_000


@dataclass(slots=True)
class _Lane:
    queue: FairQueue
    service: Service = field(default_factory=Service)
    foretold: dict[str, tuple[int, int]] = field(default_factory=dict)
    errors: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    bell_until: int = 0
    finished: Counter[int] = field(default_factory=Counter)
    cancels: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=CANCELS_KEPT))
    cancels_asked: int = 0


class MemoryLanes:
    """Thread-safe. ``bell(model)`` sends the wake-up, ``clock()`` is Unix milliseconds."""

    def __init__(self, bell: Callable[[str], None], clock: Callable[[], int], bounded: Bounded = tuple) -> None:
        self._bell = bell
        self._bounded = bounded
        self._clock = clock
        self._lanes: dict[str, _Lane] = {}
        self._weights: dict[str, float] = {}
        self._backlog: tuple[Backlog, int] | None = None
        self._rooms: dict[str, tuple[Room, int]] = {}
        self._lock = Lock()

    def _lane(self, model: str) -> _Lane:
        return self._lanes.setdefault(model, _Lane(FairQueue(lambda tenant: self._weights.get(tenant, 1.0))))

    def ping(self) -> None:
        """Memory is always there."""

    def add(self, entries: Sequence[Entry]) -> None:
        """Add ids (idempotent) and ring the bell of each lane touched."""
        with self._lock:
            for entry in placed(entries, self._bounded):
                self._lane(entry.model).queue.put(entry)
        for model in dict.fromkeys(entry.model for entry in entries):
            self.ring(model)

    def pull(self, model: str, limit: int, left: Mapping[str, int] = NOBODY) -> list[str]:
        """Take out up to ``limit`` ids, those whose turn it is; no two callers get the same id.

        Of the tenants and keys in ``left`` no more than it says. Who is passed over for that is noted.
        """
        if limit <= 0:
            return []
        with self._lock:
            lane, now = self._lane(model), self._clock()
            ids = lane.queue.pull(limit, now, left)
            for job_id in ids:
                foretold_ms, told_at = lane.foretold.pop(job_id, (0, now))
                error = error_of(foretold_ms, now - told_at)
                lane.errors += [] if error is None else [error]
            return ids

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Add ids that were pulled and did not run: their tenants get back what they paid for them."""
        with self._lock:
            for entry in entries:
                self._lane(entry.model).queue.correct(entry.tenant, entry.priority, -entry.cost)
        self.add(entries)

    def freed(self, owners: Collection[str]) -> set[str]:
        """Jobs of these tenants and keys run no more: ring for lanes whose last pull passed over one of them; which."""
        with self._lock:
            held = {model for model, lane in self._lanes.items() if not set(owners).isdisjoint(lane.queue.held)}
        for model in held:
            self.ring(model)
        return held

    def remove(self, model: str, job_id: str) -> None:
        """Take one id out, if it is there."""
        with self._lock:
            self._lane(model).queue.take(job_id)

    def missing(self, model: str, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that the lane does not hold."""
        with self._lock:
            return [job_id for job_id in ids if job_id not in self._lane(model).queue]

    def ahead(self, model: str, job_id: str) -> Ahead | None:
        """What runs before this job; None if it is not in the lane."""
        with self._lock:
            entry = self._lane(model).queue.get(job_id)
            return None if entry is None else self._lane(model).queue.ahead(entry, self._clock())

    def ahead_of(self, entry: Entry) -> Ahead:
        """What would run before a job that is not in its lane yet."""
        [entry] = placed([entry], self._bounded)
        with self._lock:
            return self._lane(entry.model).queue.ahead(entry, self._clock())

    def view(self, model: str) -> LaneView:
        """How long it is, and how fast."""
        with self._lock:
            lane = self._lane(model)
            rate = pace(lane.finished, self._clock())
            least = lane.service.least_ms_each(self._clock())
            return LaneView(len(lane.queue), rate, lane.queue.cost, lane.service.speed, lane.service.ms_each, least)

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

    def foretell(self, model: str, job_id: str, wait_ms: int) -> None:
        """Keep that a job which waits has been told to wait so long from now: when it is pulled, that is judged."""
        with self._lock:
            lane = self._lane(model)
            if len(lane.foretold) >= KEPT:
                lane.foretold.clear()
            lane.foretold[job_id] = wait_ms, self._clock()

    def accuracies(self, models: Collection[str]) -> dict[str, Accuracy]:
        """How true what was foretold has been of late; lanes of which nothing is known are left out."""
        with self._lock:
            told = {model: accuracy_of(self._lane(model).errors) for model in models}
        return {model: accuracy for model, accuracy in told.items() if accuracy is not None}

    def ring(self, model: str) -> None:
        """Wake a worker of this lane, unless a bell is already pending."""
        with self._lock:
            lane, now = self._lane(model), self._clock()
            pending = now < lane.bell_until
            if not pending:
                lane.bell_until = now + BELL_MS
        if not pending:
            self._bell(model)

    def answer(self, model: str) -> None:
        """Note that the bell was heard: the next ``ring`` sends a new one."""
        with self._lock:
            self._lane(model).bell_until = 0

    def count_finished(self, model: str, ended: Sequence[Ended]) -> float:
        """Feed the lane's rate and speed, and let tenants have paid what jobs did cost; how quick a run is at best."""
        if not ended:
            return 0.0
        with self._lock:
            lane, now = self._lane(model), self._clock()
            present, sums = span_of(now), sums_of(ended)
            lane.finished[present] += sums.jobs
            for span in [span for span in lane.finished if span <= present - SPANS]:
                del lane.finished[span]
            for tenant, priority, more in sums.more:
                lane.queue.correct(tenant, priority, more)
            lane.service = lane.service.ended(
                now,
                waiting=len(lane.queue) > 0,
                jobs=sums.jobs,
                work=sums.work,
                run_ms=sums.run_ms,
                least=sums.least,
            )
            return lane.service.least_ms_each(now)

    def tell_weights(self, weights: Mapping[str, float]) -> None:
        """The weights of tenants, for all lanes; those that are left out have 1."""
        self._weights = dict(weights)

    def ask_cancel(self, model: str, ids: Sequence[str]) -> None:
        """Tell the slots of a lane to drop jobs that are in their batch."""
        with self._lock:
            lane = self._lane(model)
            for job_id in ids:
                lane.cancels_asked += 1
                lane.cancels.append((lane.cancels_asked, job_id))

    def cancels(self, model: str, after: str) -> tuple[list[str], str]:
        """Ids to drop that were asked for after the mark ``after`` ("" for all kept), and the new mark."""
        with self._lock:
            asked = [cancel for cancel in self._lane(model).cancels if cancel[0] > int(after or 0)]
        return [job_id for _, job_id in asked], str(asked[-1][0]) if asked else after
