"""The sweep: puts right, once a second, whatever a death left half done. Every part may run twice, or side by side."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ktqueue.admission import backlog_of
from ktqueue.events.base import Events
from ktqueue.history import terminal_event
from ktqueue.job import JobState
from ktqueue.lanes.base import Lanes
from ktqueue.lateness import too_late
from ktqueue.priority_class import Entry, entry_of
from ktqueue.recovery import Recovery
from ktqueue.retention import Retention
from ktqueue.store.base import Due, LaneCensus, Store

GROUP = 500
CUT_MS = 2_000
"""So long a job that runs past its deadline is left to its slot, which knows what there is of its result."""
LOOK_AHEAD_MS = 60_000
LOOK_AHEAD = 1_000
"""So far ahead, and at so many deadlines, a sweep looks for jobs that can't make theirs. The pull meets the others."""
PAGE = 1_000
PAGES_A_SWEEP = 5
"""How many pages of a long lane are compared in one sweep; the next goes on from there."""
PAGES_WHEN_EMPTY = 500
CENSUS_SHARE = 0.1
"""The most of its time that goes into counting: it takes half a second where a million jobs wait."""
LONGEST_CENSUS_S = 5.0
"""Though it is never older than this."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Repairs:
    """What one sweep did, in jobs; ``redelivered`` in deliveries that a dead sender held."""

    recovered: int
    expired: int
    woken: int
    requeued: int
    pruned: int = 0
    redelivered: int = 0


class Sweep:
    """The periodic repair. ``redelivery`` sees to the outbox, ``weights`` are those of tenants that have one."""

    def __init__(
        self,
        store: Store,
        lanes: Lanes,
        events: Events,
        recovery: Recovery,
        retention: Retention,
        *,
        redelivery: Callable[[], int],
        weights: Callable[[], Mapping[str, float]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._events = events
        self._recovery = recovery
        self._retention = retention
        self._redelivery = redelivery
        self._weights = weights
        self._clock = clock
        self._counted: Sequence[LaneCensus] = ()
        self._count_at = clock()
        self._reached: dict[str, Entry | None] = {}

    def __call__(self) -> Repairs:
        """One round. Raises StoreUnavailable or LanesUnavailable: the next round does what this one could not."""
        repairs = Repairs(
            recovered=self._recovery.of_the_dead() + self._recovery.of_the_silent(),
            expired=self._expire_overdue() + self._expire_late(),
            woken=self._wake_due(),
            requeued=sum(self._repair_lane(lane) for lane in self._census()),
            pruned=self._retention(),
            redelivered=self._redelivery(),
        )
        self._store.post()
        if repairs != Repairs(0, 0, 0, 0):
            logger.info("%s", repairs)
        return repairs

    def _expire_overdue(self) -> int:
        jobs = self._store.expire(GROUP, running_after_ms=CUT_MS)
        for job in jobs:
            if job.state is JobState.RUNNING:
                self._lanes.ask_cancel(job.model, [job.id])
            else:
                self._lanes.remove(job.model, job.id)
        self._lanes.freed({owner for job in jobs if job.state is JobState.RUNNING for owner in job.owners})
        self._tell_ended([job.id for job in jobs])
        return len(jobs)

    def _expire_late(self) -> int:
        """End those that wait and can't make their deadline any more, among the deadlines that come next.

        They would only take the place of others that can.
        """
        soon = self._store.due_within(LOOK_AHEAD_MS, LOOK_AHEAD)
        models = {each.model for each in soon}
        views = self._lanes.views(models) if models else {}
        return sum(self._expire_late_of(model, views[model].least_ms_each, soon) for model in models)

    def _expire_late_of(self, model: str, least_ms_each: float, soon: Sequence[Due]) -> int:
        now = self._store.now()
        late = [
            each.id
            for each in soon
            if each.model == model and too_late(each.deadline_at, each.cost, now, least_ms_each)
        ]
        jobs = self._store.expire_late(late, least_ms_each=least_ms_each)
        for job in jobs:
            self._lanes.remove(job.model, job.id)
        self._tell_ended([job.id for job in jobs])
        return len(jobs)

    def _tell_ended(self, ids: Sequence[str]) -> None:
        jobs = [job for job_id in ids if (job := self._store.get(job_id)) is not None]
        self._events.publish([terminal_event(job) for job in jobs])

    def _wake_due(self) -> int:
        jobs = self._store.wake(GROUP)
        now = self._store.now()
        self._lanes.add([entry_of(job, now) for job in jobs if job.company is None])
        return len(jobs)

    def _census(self) -> Sequence[LaneCensus]:
        """What is queued, as last counted; of late, unless counting takes long. Whoever admits more is told."""
        began = self._clock()
        if began >= self._count_at:
            taken_at = self._store.now()
            self._counted = self._store.census()
            took = self._clock() - began
            self._lanes.tell_backlog(backlog_of(self._counted, taken_at))
            self._lanes.tell_weights(self._weights())
            self._count_at = began + min(took / CENSUS_SHARE, LONGEST_CENSUS_S)
        return self._counted

    def _repair_lane(self, lane: LaneCensus) -> int:
        """Add what the store says is due and the lane does not hold; ring if anything waits.

        The head, which runs next, is compared in each sweep; of a long lane the rest in turns.
        """
        if not (lane.due or lane.suspects):
            return 0
        depth = self._lanes.view(lane.model).depth
        added = 0
        if lane.due > depth:
            added, _ = self._compare(lane.model, None, 1)
        if lane.due > depth + added:
            pages = PAGES_A_SWEEP if depth else PAGES_WHEN_EMPTY
            more, self._reached[lane.model] = self._compare(lane.model, self._reached.get(lane.model), pages)
            added += more
        self._lanes.ring(lane.model)
        return added

    def _compare(self, model: str, after: Entry | None, pages: int) -> tuple[int, Entry | None]:
        """Compare ``pages`` from ``after`` on: how many ids were added, and where to go on unless the lane ended."""
        added = 0
        for _ in range(pages):
            page = self._store.waiting(model, after=after, limit=PAGE)
            missing = set(self._lanes.missing(model, [entry.id for entry in page]))
            self._lanes.add([entry for entry in page if entry.id in missing])
            added += len(missing)
            if len(page) < PAGE:
                return added, None
            after = page[-1]
        return added, after
