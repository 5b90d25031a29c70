"""What a worker does with jobs: claim, report, settle, renew, give back. Called by the drain loop."""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from ktqueue.blame import blame
from ktqueue.controls.watched import WatchedControls
from ktqueue.cost import true_cost
from ktqueue.errors import LanesUnavailable, StoreUnavailable
from ktqueue.events.base import Event, EventId, Events
from ktqueue.history import end_event, requeued_event
from ktqueue.job import ENGINE_CRASHED, Job, JobError, JobState, JsonObject, Ride, Usage, Verdict, fence_of
from ktqueue.lanes.base import Ended, Lanes
from ktqueue.priority_class import entry_of
from ktqueue.retry import Backoff, retry_at
from ktqueue.room import Room
from ktqueue.running import RunningLimits
from ktqueue.store.base import Quota, Store

logger = logging.getLogger(__name__)

Settled = tuple[Job, Verdict]
Had = tuple[float, Ride | None]
"""Of the steps of an attempt: a job's share in seconds, and what they were."""
NOTHING: Mapping[str, Had] = MappingProxyType({})

LEAST_S = 10.0
"""How long a slot goes by what it was told of how quick a run is: it is told whenever jobs end."""
LEASE_STEPS = 3
"""A lease outlasts so many steps as slow as the slowest of late; or it would run out on a worker that is well."""


class Execution:
    """The use cases of one slot. ``jitter`` is uniform in [0, 1), ``clock`` in seconds."""

    def __init__(
        self,
        store: Store,
        lanes: Lanes,
        events: Events,
        controls: WatchedControls,
        limits: RunningLimits,
        *,
        lease_ms: int,
        backoff: Backoff = Backoff(),  # noqa: B008 - frozen, so sharing it is safe
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._events = events
        self._controls = controls
        self._limits = limits
        self._lease_ms = lease_ms
        self._backoff = backoff
        self._jitter = jitter
        self._clock = clock
        self._least: dict[str, tuple[float, float]] = {}

    def answer(self, model: str) -> None:
        """Note that the lane's bell was heard. Must come before the first claim, so that no later job is missed."""
        self._lanes.answer(model)

    def claim(self, model: str, limit: int, *, token: str, worker: str, step_s: float = 0.0) -> list[Job]:
        """Pull up to ``limit`` jobs from the lane and make them running under ``token``.

        ``step_s`` is what a step of the engine may take. Raises LanesUnavailable, StoreUnavailable; ids pulled and not
        claimed are brought back by the sweep. Of a lane that is paused nothing is pulled, and of a tenant or a key no
        more than may run.
        """
        quota = self._quota(model)
        ids = self._limits.pull(model, self._within(quota, limit))
        if not ids:
            return []
        if len(ids) == limit:
            # There may be more than this slot can hold: wake another. One that is alone hears it and finds nothing.
            self._lanes.ring(model)
        least_ms_each = self._least_ms_each(model)
        jobs = self._store.claim(
            ids, token=token, worker=worker, lease_ms=self._lease(step_s), quota=quota, least_ms_each=least_ms_each
        )
        self._tell_running(jobs)
        if len(jobs) < len(ids):
            claimed = {job.id for job in jobs}
            self._not_claimed([job_id for job_id in ids if job_id not in claimed], least_ms_each)
        return jobs

    def _not_claimed(self, ids: Sequence[str], least_ms_each: float) -> None:
        """See to those that were pulled in vain. What is not done here, the sweep does."""
        try:
            if least_ms_each:
                self._expire_late(ids, least_ms_each)
            self._limits.put_back(ids)
        except StoreUnavailable as error:
            logger.debug("%d jobs that were pulled and not claimed are left to the sweep: %s", len(ids), error)

    def _least_ms_each(self, model: str) -> float:
        """How long a run takes at least for each unit of its cost, as told when this slot's jobs ended last."""
        least_ms_each, until = self._least.get(model, (0.0, 0.0))
        return least_ms_each if self._clock() < until else 0.0

    def _expire_late(self, ids: Sequence[str], least_ms_each: float) -> None:
        """End those that were not claimed for they can't make their deadline any more."""
        expired = self._store.expire_late(ids, least_ms_each=least_ms_each)
        self.publish([end_event(job, JobState.EXPIRED, None) for job in expired])

    def has_suspects(self, model: str) -> bool:
        """Whether jobs wait that may have killed their process, and may run. Raises StoreUnavailable."""
        return self._controls.lane(model).most_claimed != 0 and self._store.has_suspects(model, self._limits())

    def claim_suspects(self, model: str, limit: int, *, token: str, worker: str, step_s: float = 0.0) -> list[Job]:
        """Claim suspects that may share an engine with each other, and with nobody else. Raises StoreUnavailable."""
        quota = self._quota(model)
        jobs = self._store.claim_suspects(
            model, self._within(quota, limit), token=token, worker=worker, lease_ms=self._lease(step_s), quota=quota
        )
        self._tell_running(jobs)
        return jobs

    def _quota(self, model: str) -> Quota | None:
        return self._limits.quota(model, self._controls.lane(model).most_claimed)

    def _within(self, quota: Quota | None, limit: int) -> int:
        """How many to pull. The claim decides, but what it leaves must wait for the sweep to come back."""
        if quota is None or quota.most is None:
            return limit
        return max(0, min(limit, quota.most - self._store.running(quota.model))) if quota.most else 0

    def _lease(self, step_s: float) -> int:
        return max(self._lease_ms, int(LEASE_STEPS * step_s * 1000))

    def _tell_running(self, jobs: Sequence[Job]) -> None:
        self.publish([Event(job.id, EventId(job.claims, 0), "state", {"state": "running"}) for job in jobs])

    def success(
        self,
        job: Job,
        result: JsonObject,
        usage: Usage | None,
        largest_batch: int,
        *,
        device_s: float = 0.0,
        ride: Ride | None = None,
    ) -> Settled:
        """The verdict on a job whose engine gave a result; ``device_s`` is its share of the attempt's steps."""
        return job, Verdict(
            fence_of(job),
            JobState.SUCCEEDED,
            result=result,
            usage=usage,
            largest_batch=largest_batch,
            device_s=device_s,
            ride=ride,
        )

    def failure(self, job: Job, error: JobError, device_s: float = 0.0, ride: Ride | None = None) -> Settled:
        """The verdict on a job whose attempt failed: again later, or for good."""
        again = retry_at(job, error, now=self._store.now(), backoff=self._backoff, jitter=self._jitter())
        state = JobState.FAILED if again is None else JobState.QUEUED
        return job, Verdict(fence_of(job), state, error=error, run_at=again, device_s=device_s, ride=ride)

    def overdue(self, jobs: Iterable[Job]) -> list[Job]:
        """Those that are past their deadline. Raises StoreUnavailable."""
        deadlines = [(job, job.deadline_at) for job in jobs if job.deadline_at is not None]
        if not deadlines:
            return []
        now = self._store.now()
        return [job for job, deadline_at in deadlines if deadline_at <= now]

    def expiry(
        self,
        job: Job,
        result: JsonObject | None,
        usage: Usage | None,
        largest_batch: int | None,
        *,
        device_s: float,
        ride: Ride | None = None,
    ) -> Settled:
        """The verdict on a job whose deadline came before its end, with what there is of its result."""
        return job, Verdict(
            fence_of(job),
            JobState.EXPIRED,
            result=result,
            usage=usage,
            largest_batch=largest_batch,
            device_s=device_s,
            ride=ride,
        )

    def returned(self, job: Job) -> Settled:
        """The verdict on a job that goes back where it waited, the attempt not charged."""
        return job, Verdict(fence_of(job), JobState.QUEUED, charged=False, company=job.company, crashes=job.crashes)

    def settle(self, settled: Sequence[Settled]) -> set[str]:
        """Commit a group of verdicts in one transaction and tell who waits. Raises StoreUnavailable, then repeat.

        A job that is no longer ours (cancelled, lease lost) is left as it is; the ids of the others. Those that wait
        again are in their lanes.
        """
        now = self._store.now()
        changed = self._store.finish([verdict for _, verdict in settled])
        ours = [(job, verdict) for job, verdict in settled if job.id in changed]
        self.publish([_end_event(job, verdict) for job, verdict in ours])
        self._count([(job, verdict) for job, verdict in ours if verdict.state.terminal], now)
        self._line_up([job for job, verdict in ours if verdict.back_in_lane], now)
        self._limits.freed([job for job, _ in ours])
        return changed

    def give_back(self, jobs: Sequence[Job], had: Mapping[str, Had] = NOTHING) -> None:
        """Put running jobs back in their lanes, the attempt not charged. Raises StoreUnavailable.

        ``had`` is by job id what they had of their steps.
        """
        self._requeue(jobs, had, [self.returned(job)[1] for job in jobs])

    def crash(self, jobs: Sequence[Job], had: Mapping[str, Had] = NOTHING) -> None:
        """Decide about all jobs that were in an engine when it broke; ``had`` as above. Raises StoreUnavailable."""
        now = self._store.now()
        self._requeue(jobs, had, blame(jobs, ENGINE_CRASHED, now=now, backoff=self._backoff, jitter=self._jitter()))

    def _requeue(self, jobs: Sequence[Job], had: Mapping[str, Had], verdicts: Sequence[Verdict]) -> None:
        by_id = {job.id: job for job in jobs}
        self.settle([(by_id[verdict.fence.job_id], _with(verdict, had)) for verdict in verdicts])

    def _line_up(self, jobs: Sequence[Job], now: int) -> None:
        if not jobs:
            return
        try:
            self._lanes.add([entry_of(job, now) for job in jobs])
        except LanesUnavailable as error:
            logger.debug("%d jobs given back wait for the sweep: %s", len(jobs), error)

    def renew(self, token: str, jobs: Sequence[Job], *, step_s: float = 0.0) -> set[str]:
        """Renew the leases of ``jobs``; the ids of those that are no longer ours. Raises StoreUnavailable."""
        ids = [job.id for job in jobs]
        return set(ids) - self._store.renew(token, ids, lease_ms=self._lease(step_s))

    def tell_progress(self, token: str, progress: Mapping[str, float]) -> None:
        """Leave word for webhooks of how far (0-1) jobs have come. Raises StoreUnavailable."""
        self._store.tell_progress(token, progress)

    def tell_room(self, model: str, room: Room) -> None:
        """Leave word of what this slot holds. Best effort: it is told again and again."""
        try:
            self._lanes.tell_room(model, room)
        except LanesUnavailable as error:
            logger.debug("nobody is told what a slot of %s holds: %s", model, error)

    def cancels(self, model: str, mark: str) -> tuple[list[str], str]:
        """Ids that slots of this lane should drop, asked for since ``mark``."""
        try:
            return self._lanes.cancels(model, mark)
        except LanesUnavailable as error:
            logger.debug("cancels of %s can't be read: %s", model, error)
            return [], mark

    def publish(self, events: Sequence[Event]) -> None:
        """Tell followers. Best effort: what is lost here they learn from the store."""
        if not events:
            return
        try:
            self._events.publish(events)
        except LanesUnavailable as error:
            logger.debug("%d events are not published: %s", len(events), error)

    def _count(self, ended: Sequence[Settled], now: int) -> None:
        lanes: defaultdict[str, list[Ended]] = defaultdict(list)
        for job, verdict in ended:
            lanes[job.model].append(_ended(job, verdict, now))
        try:
            for model, group in lanes.items():
                self._least[model] = self._lanes.count_finished(model, group), self._clock() + LEAST_S
        except LanesUnavailable as error:
            logger.debug("finished jobs are not counted: %s", error)


def _with(verdict: Verdict, had: Mapping[str, Had]) -> Verdict:
    """Told of an attempt that is not the last. One whose engine broke is not billed to whoever was in it."""
    if verdict.state.terminal or verdict.fence.job_id not in had:
        return verdict
    device_s, ride = had[verdict.fence.job_id]
    return replace(verdict, device_s=device_s, ride=ride)


def _ended(job: Job, verdict: Verdict, now: int) -> Ended:
    cost = true_cost(job.task, job.input, job.cost, verdict.usage)
    ran_ms = 0 if job.started_at is None else max(0, now - job.started_at)
    return Ended(job.tenant, job.priority, job.cost, cost, ran_ms, whole=verdict.state is JobState.SUCCEEDED)


def _end_event(job: Job, verdict: Verdict) -> Event:
    if verdict.state is JobState.QUEUED:
        return requeued_event(job)
    return end_event(job, verdict.state, verdict.error)
