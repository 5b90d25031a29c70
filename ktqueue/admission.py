"""Whether there is room for more: decided before anything is stored."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock

from ktqueue.control import LaneMode
from ktqueue.controls.watched import WatchedControls
from ktqueue.errors import LaneDraining, LanesUnavailable, QueueFull
from ktqueue.job import Job
from ktqueue.lanes.base import Backlog, Lanes
from ktqueue.store.base import LaneCensus, Store

REFRESH_S = 0.25
REFRESH_AWAY_S = 1.0
"""Without Redis a reading counts every queued row."""
LONGEST_RETRY_AFTER_S = 60


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that may be queued: jobs in one lane, jobs in all of them, and bytes that these came with.

    Jobs scheduled for later are in none of the lanes yet, and count too.
    """

    lane: int
    jobs: int
    size: int


def backlog_of(census: Sequence[LaneCensus], taken_at: int) -> Backlog:
    """What lanes can't know of ``census``, which was taken at ``taken_at`` or a little after."""
    later = {lane.model: lane.queued - lane.due for lane in census}
    return Backlog(taken_at, later, sum(lane.size for lane in census))


@dataclass(slots=True)
class _Reading:
    """What is queued, with what was admitted since it was read.

    ``rates`` are jobs per second and ``ms_each`` what a run takes for each unit of its cost, where known.
    """

    until: float
    depths: Counter[str]
    later: Counter[str]
    size: int
    rates: Mapping[str, float]
    ms_each: Mapping[str, float]
    jobs: int = 0

    @property
    def rate(self) -> float:
        """Of all lanes together."""
        return sum(self.rates.values())


@dataclass(slots=True)
class _Admitted:
    """What this process admitted from ``since`` (the store's clock) to its next reading."""

    since: int
    later: Counter[str] = field(default_factory=Counter)
    size: int = 0


class Admission:
    """Keeps what is queued within ``bounds``, give or take what other processes admit between two readings.

    Depths are read from the lanes every ``REFRESH_S``; what only the store knows, jobs for later and bytes, is as old
    as the last sweep, and what this process admitted since is added.
    """

    def __init__(
        self,
        store: Store,
        lanes: Lanes,
        controls: WatchedControls,
        *,
        bounds: Bounds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._controls = controls
        self._bounds = bounds
        self._clock = clock
        self._models: set[str] = set()
        self._reading: _Reading | None = None
        self._admitted: deque[_Admitted] = deque()
        self._lock = Lock()

    def check(self, jobs: Sequence[Job]) -> None:
        """Raises what `admit` would, and counts nothing in."""
        self._admit(jobs, count=False)

    def admit(self, jobs: Sequence[Job]) -> None:
        """Count these in, all or none. Raises QueueFull with the time in which room is made for them; LaneDraining."""
        self._admit(jobs, count=True)

    def _admit(self, jobs: Sequence[Job], *, count: bool) -> None:
        size = 0
        counts: dict[str, int] = {}
        for job in jobs:
            size += job.size
            counts[job.model] = counts.get(job.model, 0) + 1
        for model in counts:
            if self._controls.lane(model).mode is LaneMode.DRAINING:
                raise LaneDraining(f"the lane of {model!r} is being drained: it takes no new jobs until it is resumed")
        with self._lock:
            reading = self._current(counts.keys())
            for model, more in counts.items():
                self._check_lane(reading, model, more)
            self._check_all(reading, len(jobs), size)
            if count:
                self._count(reading, jobs, size)

    def run_ms(self, model: str, cost: int) -> float:
        """How long a job of this cost may run, by the last reading; 0 where that is not known."""
        reading = self._reading
        return 0.0 if reading is None else cost * reading.ms_each.get(model, 0.0)

    def wait_s(self, model: str) -> float | None:
        """How long what was admitted last may wait for its turn, by the last reading; None is 'unknown'."""
        reading = self._reading
        rate = reading.rates.get(model) if reading is not None else None
        return reading.depths[model] / rate if reading is not None and rate else None

    def _check_lane(self, reading: _Reading, model: str, jobs: int) -> None:
        queued = reading.depths[model] + reading.later[model]
        excess = queued + jobs - self._bounds.lane
        if excess > 0:
            raise QueueFull(
                f"{queued} jobs wait for {model!r}; {self._bounds.lane} may",
                retry_after_s=_seconds(excess, reading.rates.get(model, 0)),
            )

    def _check_all(self, reading: _Reading, jobs: int, size: int) -> None:
        excess = reading.jobs + jobs - self._bounds.jobs
        if excess > 0:
            message = f"{reading.jobs} jobs wait in all lanes together; {self._bounds.jobs} may"
            raise QueueFull(message, retry_after_s=_seconds(excess, reading.rate))
        excess = reading.size + size - self._bounds.size
        if excess > 0:
            message = f"the jobs that wait are {reading.size} bytes; {self._bounds.size} may be"
            bytes_per_s = reading.rate * reading.size / max(1, reading.jobs)
            raise QueueFull(message, retry_after_s=_seconds(excess, bytes_per_s))

    def _count(self, reading: _Reading, jobs: Sequence[Job], size: int) -> None:
        admitted = self._admitted[-1]
        for job in jobs:
            if job.run_at is None:
                reading.depths[job.model] += 1
            else:
                reading.later[job.model] += 1
                admitted.later[job.model] += 1
        reading.jobs += len(jobs)
        reading.size += size
        admitted.size += size

    def _current(self, models: Collection[str]) -> _Reading:
        now = self._clock()
        if self._reading is None or now > self._reading.until or not self._models.issuperset(models):
            self._models.update(models)
            self._reading = self._read(now)
        return self._reading

    def _read(self, now: float) -> _Reading:
        began = _Admitted(self._store.now())
        try:
            reading, taken_at = self._read_lanes(now)
        except LanesUnavailable:
            # The store still knows how much waits; the bounds hold through an outage.
            reading, taken_at = self._read_store(now)
        self._admitted.append(began)
        while len(self._admitted) > 1 and self._admitted[1].since <= taken_at:
            self._admitted.popleft()
        for admitted in self._admitted:
            reading.later += admitted.later
            reading.size += admitted.size
        reading.jobs = reading.depths.total() + reading.later.total()
        return reading

    def _read_lanes(self, now: float) -> tuple[_Reading, int]:
        backlog = self._lanes.backlog()
        if backlog is None:
            # Nobody swept of late. Whoever finds that out counts, for all.
            census, taken_at = self._census()
            backlog = backlog_of(census, taken_at)
            self._lanes.tell_backlog(backlog)
        views = self._lanes.views(self._models.union(backlog.later))
        depths = Counter({model: view.depth for model, view in views.items()})
        rates = {model: view.rate for model, view in views.items() if view.rate is not None}
        ms_each = {model: view.ms_each for model, view in views.items() if view.ms_each is not None}
        return _Reading(now + REFRESH_S, depths, Counter(backlog.later), backlog.size, rates, ms_each), backlog.taken_at

    def _read_store(self, now: float) -> tuple[_Reading, int]:
        census, taken_at = self._census()
        backlog = backlog_of(census, taken_at)
        depths = Counter({lane.model: lane.due for lane in census})
        return _Reading(now + REFRESH_AWAY_S, depths, Counter(backlog.later), backlog.size, {}, {}), taken_at

    def _census(self) -> tuple[list[LaneCensus], int]:
        taken_at = self._store.now()
        return self._store.census(), taken_at


def _seconds(excess: float, rate: float) -> int:
    """Whole seconds in which ``excess`` of something is gone at ``rate`` of it per second."""
    return min(LONGEST_RETRY_AFTER_S, max(1, math.ceil(excess / rate))) if rate else LONGEST_RETRY_AFTER_S
