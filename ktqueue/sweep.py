"""The sweep: puts right, once a second, whatever a death left half done. Every part may run twice, or side by side."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ktqueue.events.base import REQUEUED, Event, EventId, Events
from ktqueue.history import terminal_event
from ktqueue.job import Job, JobError, JobState, Verdict, fence_of
from ktqueue.lanes.base import Entry, Lanes
from ktqueue.retry import Backoff, retry_at
from ktqueue.store.base import LaneCensus, Store, Waiting

GROUP = 500
PAGE = 1_000
PAGES_A_SWEEP = 5
"""How many pages of a long lane are compared in one sweep; the next goes on from there."""
PAGES_WHEN_EMPTY = 500

LEASE_LOST = JobError("lease_lost", "the worker that ran this job died or stopped answering", retryable=True)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Repairs:
    """What one sweep did, in jobs."""

    recovered: int
    expired: int
    woken: int
    requeued: int


class Sweep:
    """The periodic repair."""

    def __init__(
        self,
        store: Store,
        lanes: Lanes,
        events: Events,
        *,
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen, so sharing it is safe
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._events = events
        self._backoff = backoff
        self._jitter = jitter
        self._reached: dict[str, Waiting | None] = {}

    def __call__(self) -> Repairs:
        """One round. Raises StoreUnavailable or LanesUnavailable: the next round does what this one could not."""
        repairs = Repairs(
            recovered=self._recover_lapsed(),
            expired=self._expire_overdue(),
            woken=self._wake_due(),
            requeued=sum(self._repair_lane(lane) for lane in self._store.census() if lane.due),
        )
        if repairs != Repairs(0, 0, 0, 0):
            logger.info("%s", repairs)
        return repairs

    def _recover_lapsed(self) -> int:
        """Jobs whose worker died: tried again after a back-off, or failed."""
        jobs = self._store.lapsed(GROUP)
        now = self._store.now()
        verdicts = [self._verdict(job, now) for job in jobs]
        changed = self._store.finish(verdicts, only_lapsed=True)
        for job, verdict in zip(jobs, verdicts, strict=True):
            if job.id in changed:
                self._tell_recovered(job, verdict)
        return len(changed)

    def _verdict(self, job: Job, now: int) -> Verdict:
        again = retry_at(job, LEASE_LOST, now=now, backoff=self._backoff, jitter=self._jitter())
        state = JobState.FAILED if again is None else JobState.QUEUED
        return Verdict(fence_of(job), state, error=LEASE_LOST, run_at=again)

    def _tell_recovered(self, job: Job, verdict: Verdict) -> None:
        if verdict.state is JobState.QUEUED:
            requeued = Event(job.id, EventId(job.claims, REQUEUED), "state", {"state": "queued"})
            self._events.publish([requeued])
        else:
            self._tell_ended([job.id])
        # Should its worker live after all, it need not work on in vain.
        self._lanes.ask_cancel(job.model, [job.id])

    def _expire_overdue(self) -> int:
        jobs = self._store.expire(GROUP)
        for job in jobs:
            if job.state is JobState.RUNNING:
                self._lanes.ask_cancel(job.model, [job.id])
            else:
                self._lanes.remove(job.model, job.id)
        self._tell_ended([job.id for job in jobs])
        return len(jobs)

    def _tell_ended(self, ids: Sequence[str]) -> None:
        jobs = [job for job_id in ids if (job := self._store.get(job_id)) is not None]
        self._events.publish([terminal_event(job) for job in jobs])

    def _wake_due(self) -> int:
        jobs = self._store.wake(GROUP)
        self._lanes.add([Entry(job.model, job.id, job.rank) for job in jobs])
        return len(jobs)

    def _repair_lane(self, lane: LaneCensus) -> int:
        """Add what the store says is due and the lane does not hold; ring if anything waits.

        The head, which runs next, is compared in each sweep; of a long lane the rest in turns.
        """
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

    def _compare(self, model: str, after: Waiting | None, pages: int) -> tuple[int, Waiting | None]:
        """Compare ``pages`` from ``after`` on: how many ids were added, and where to go on unless the lane ended."""
        added = 0
        for _ in range(pages):
            page = self._store.waiting(model, after=after, limit=PAGE)
            missing = set(self._lanes.missing(model, [waiting.id for waiting in page]))
            self._lanes.add([Entry(model, waiting.id, waiting.rank) for waiting in page if waiting.id in missing])
            added += len(missing)
            if len(page) < PAGE:
                return added, None
            after = page[-1]
        return added, after
