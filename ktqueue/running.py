"""How many jobs of a tenant, or a key, run at once: who has reached its limit is passed over, and rung for at an end.

The store alone decides: what runs is counted in the transaction that claims. What a lane is told before a pull is the
same count, a moment older, so that others are given in place of those who may not. A job too many, because another
worker was quicker, goes back to its lane unpaid.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from ktqueue.errors import LanesUnavailable, Unavailable
from ktqueue.job import Job, JobState
from ktqueue.lanes.base import Lanes
from ktqueue.priority_class import entry_of
from ktqueue.store.base import Quota, Store
from ktqueue.store.limits import left_of

logger = logging.getLogger(__name__)


class RunningLimits:
    """``limits()`` are those of the owners that have one. Where nobody has, nothing more is asked of anyone."""

    def __init__(self, store: Store, lanes: Lanes, limits: Callable[[], Mapping[str, int]]) -> None:
        self._store = store
        self._lanes = lanes
        self._limits = limits
        self._yields: defaultdict[str, set[str]] = defaultdict(set)

    def __call__(self) -> Mapping[str, int]:
        """The limits as they are. Raises StoreUnavailable."""
        return self._limits()

    def quota(self, model: str, most: int | None) -> Quota | None:
        """What a claim must stay within if so many of the lane may run. Raises StoreUnavailable."""
        owners = self._limits()
        return Quota(model, most, owners) if most is not None or owners else None

    def pull(self, model: str, limit: int) -> list[str]:
        """Pull ids from a lane, passing over who may not run more. Raises LanesUnavailable, StoreUnavailable."""
        if yields := self._yields.pop(model, None):
            # Rung like those others, and after them; or the lane that ended a job would always have the next.
            self._lanes.ring(model)
            return self._lanes.pull(model, limit, self._left(limit) | dict.fromkeys(yields, 0))
        while True:
            left = self._left(limit)
            ids = self._lanes.pull(model, limit, left)
            # Who was passed over is noted by now, and is rung for at the next end. One before that shows here.
            held = {owner for owner, more in left.items() if more <= 0}
            if ids or not held or held <= {owner for owner, more in self._left(limit).items() if more <= 0}:
                return ids

    def _left(self, limit: int) -> dict[str, int]:
        """How many more may run of each owner of whom not ``limit`` may."""
        limits = self._limits() if limit > 0 else {}
        if not limits:
            return {}
        left = left_of(limits, self._store.running_by_owner())
        return {owner: more for owner, more in left.items() if more < limit}

    def put_back(self, ids: Sequence[str]) -> None:
        """Bring those back to their lanes that were pulled and not claimed for want of room. Best effort.

        There they lie where they belong, though their key was not bounded when they came.
        """
        limits = self._limits()
        if not (limits and ids):
            return
        now = self._store.now()
        jobs = [job for job in self._store.jobs(ids) if not limits.keys().isdisjoint(job.owners) and _can_run(job, now)]
        try:
            self._lanes.put_back([entry_of(job, now) for job in jobs])
        except LanesUnavailable as error:
            logger.debug("%d jobs that were pulled too many wait for the sweep: %s", len(jobs), error)

    def freed(self, jobs: Collection[Job]) -> None:
        """Tell that these jobs run no more, and let other lanes go first. Best effort: the sweep rings, too."""
        try:
            bounded = {owner for job in jobs for owner in job.owners} & self._limits().keys()
            if bounded:
                held = self._lanes.freed(bounded)
                for job in jobs:
                    if held - {job.model}:
                        self._yields[job.model].update(bounded.intersection(job.owners))
        except Unavailable as error:
            logger.debug("nobody is told that more jobs may run: %s", error)


def _can_run(job: Job, now: int) -> bool:
    in_time = job.deadline_at is None or job.deadline_at > now
    return job.state is JobState.QUEUED and job.company is None and job.run_at is None and in_time
