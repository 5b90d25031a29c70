"""Brings back the jobs of processes that died or stopped answering. May run twice, or in several processes at once."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Sequence

from ktqueue.blame import blame
from ktqueue.errors import LanesUnavailable
from ktqueue.events.base import Event, Events
from ktqueue.history import requeued_event, terminal_event
from ktqueue.job import ENGINE_CRASHED, LEASE_LOST, Job, JobError, Verdict
from ktqueue.lanes.base import Lanes
from ktqueue.priority_class import entry_of
from ktqueue.retry import Backoff
from ktqueue.store.base import Store

GROUP = 500

logger = logging.getLogger(__name__)


class Recovery:
    """``is_dead(worker)`` says whether a worker is known to be gone. ``jitter`` is uniform in [0, 1)."""

    def __init__(
        self,
        store: Store,
        lanes: Lanes,
        events: Events,
        *,
        is_dead: Callable[[str], bool],
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen, so sharing it is safe
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._events = events
        self._is_dead = is_dead
        self._backoff = backoff
        self._jitter = jitter

    def of_the_dead(self) -> int:
        """Jobs whose process is known to be gone, at once; how many. Raises StoreUnavailable."""
        recovered = 0
        for holder in self._store.holders():
            if self._is_dead(holder.worker):
                jobs = self._store.held(holder.token)
                verdicts = self._blame(jobs, ENGINE_CRASHED)
                recovered += self._apply(jobs, verdicts, self._store.finish(verdicts))
        return recovered

    def of_the_silent(self) -> int:
        """Jobs whose lease has run out; how many. Raises StoreUnavailable."""
        jobs = self._store.lapsed(GROUP)
        verdicts = self._blame(jobs, LEASE_LOST)
        return self._apply(jobs, verdicts, self._store.finish(verdicts, only_lapsed=True))

    def _blame(self, jobs: Sequence[Job], fault: JobError) -> list[Verdict]:
        now = self._store.now()
        return blame(jobs, fault, now=now, backoff=self._backoff, jitter=self._jitter())

    def _apply(self, jobs: Sequence[Job], verdicts: Sequence[Verdict], changed: set[str]) -> int:
        by_id = {job.id: job for job in jobs}
        for verdict in verdicts:
            job = by_id[verdict.fence.job_id]
            if job.id in changed:
                self._tell(job, verdict)
        self._tell_freed({owner for job_id in changed for owner in by_id[job_id].owners})
        return len(changed)

    def _tell(self, job: Job, verdict: Verdict) -> None:
        try:
            self._events.publish([self._event(job, verdict)])
            # Should its worker live after all, it need not work on in vain.
            self._lanes.ask_cancel(job.model, [job.id])
            if verdict.back_in_lane:
                self._lanes.add([entry_of(job, self._store.now())])
            elif not verdict.state.terminal:
                self._lanes.ring(job.model)
        except LanesUnavailable as error:
            logger.debug("nobody is told that %s was recovered: %s", job.id, error)

    def _tell_freed(self, owners: Collection[str]) -> None:
        try:
            self._lanes.freed(owners)
        except LanesUnavailable as error:
            logger.debug("nobody is told that more jobs of %s may run: %s", sorted(owners), error)

    def _event(self, job: Job, verdict: Verdict) -> Event:
        if not verdict.state.terminal:
            return requeued_event(job)
        return terminal_event(self._store.get(job.id) or job)
