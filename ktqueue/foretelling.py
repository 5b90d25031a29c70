"""When a job's turn comes: asked of its lane while it waits, and before it is taken if it would rather not be late."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from ktqueue.errors import LanesUnavailable, TooLate, Unavailable
from ktqueue.fair import Ahead
from ktqueue.job import Job, JobState, Place
from ktqueue.lanes.base import Lanes, LaneView
from ktqueue.priority_class import entry_of
from ktqueue.rank import DEFAULT_SLACK_MS, rank

SAMPLE_S = 0.1
"""How often, at most, what is foretold of a job as it comes is kept, to be compared with what then happens."""
LONGEST_RETRY_AFTER_S = 60
LONGER = 2
PART = 0.85
"""What is foretold may be of the time there is: the rest is for what is not foreseen."""

logger = logging.getLogger(__name__)


class Foretelling:
    """Asks the lanes. ``limits()`` is how many jobs may run at once, of tenants and keys that are bounded in that.

    ``clock`` is in seconds.
    """

    def __init__(
        self,
        lanes: Lanes,
        *,
        limits: Callable[[], Mapping[str, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lanes = lanes
        self._limits = limits
        self._clock = clock
        self._sample_at = clock()

    def place(self, job: Job) -> Place:
        """Where a job stands in its lane, and when its turn may come; unknown for one that is not waiting."""
        if job.state is not JobState.QUEUED:
            return Place()
        try:
            ahead = self._lanes.ahead(job.model, job.id)
            view = self._lanes.view(job.model)
            return Place() if ahead is None else Place(ahead.jobs, self._eta_s(job, ahead, view))
        except Unavailable:
            return Place()

    def refuse_late(self, job: Job, now: int) -> None:
        """Raises TooLate if by what waits a job that is not in its lane yet would be late, or make others late.

        A lane can meet its deadlines if, for every span from now on, what must end in it takes no longer (the processor
        demand criterion, Baruah and others 1990). It is asked for the job's own span and for some longer ones, in which
        jobs end that were accepted and that this one would go before. Of a lane that has served nothing of late, or is
        away, nobody can tell.
        """
        if job.deadline_at is None:
            return
        try:
            view = self._lanes.view(job.model)
            run_ms = (view.ms_each or 0.0) * job.cost
            for span in _spans(job.deadline_at - now):
                ahead = self._lanes.ahead_of(replace(entry_of(job, now), rank=rank(now, now + span, run_ms)))
                wait_s = self._eta_s(job, ahead, view)
                if wait_s is None:
                    return
                starts_at = max(now + 1000 * wait_s / PART, job.run_at or now)
                _check(job, starts_at + run_ms - now - span)
        except Unavailable as error:
            logger.debug("nobody can tell whether a job will be late: %s", error)

    def _eta_s(self, job: Job, ahead: Ahead, view: LaneView) -> float | None:
        """When its turn comes; if its tenant or key is bounded, not before those ahead could run, so many at once.

        Raises StoreUnavailable.
        """
        turn_s, limits = eta_s(ahead, view), self._limits()
        if turn_s is None or view.ms_each is None or limits.keys().isdisjoint(job.owners):
            return turn_s
        run_s = view.ms_each * view.cost / max(1, view.depth) / 1000
        before = zip(job.owners, (ahead.own, ahead.keys), strict=False)
        return max(turn_s, *(jobs * run_s / limits[owner] for owner, jobs in before if owner in limits))

    def note(self, jobs: Sequence[Job]) -> None:
        """Foretell one of these jobs, which have just come, unless that was done a moment ago."""
        began = self._clock()
        job = next((job for job in jobs if job.run_at is None), None)
        if job is None or began < self._sample_at:
            return
        self._sample_at = began + SAMPLE_S
        place = self.place(job)
        if place.eta_s is None:
            return
        try:
            self._lanes.foretell(job.model, job.id, int(1000 * place.eta_s))
        except LanesUnavailable as error:
            logger.debug("what is foretold of %s is not kept: %s", job.id, error)


def eta_s(ahead: Ahead, view: LaneView) -> float | None:
    """When the turn comes of a job with so much before it; None is 'unknown'."""
    if view.speed is not None:
        return ahead.cost / view.speed
    # Nobody had to wait of late, so it may go faster than this.
    return None if view.rate is None else (ahead.jobs + 1) / view.rate


def _spans(own: int) -> Iterator[int]:
    """The job's own, and what is longer, up to where jobs without deadlines begin."""
    yield own
    span = LONGER * max(1, own)
    while span < DEFAULT_SLACK_MS:
        yield span
        span *= LONGER


def _check(job: Job, late_ms: float) -> None:
    if late_ms > 0:
        raise TooLate(
            f"by what waits for {job.model!r} it, or one that it goes before, would be {late_ms / 1000:.1f} s late",
            retry_after_s=min(LONGEST_RETRY_AFTER_S, math.ceil(late_ms / 1000)),
        )
