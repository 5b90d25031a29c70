"""The store as dictionaries: for unit tests and simulations. It forgets everything when it is let go."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from threading import RLock
from typing import Any, Protocol

from ktqueue.job import Attempt, Job, JobState, Verdict, last_attempt, outcome_of
from ktqueue.lateness import too_late
from ktqueue.priority_class import Entry, entry_of
from ktqueue.store.base import (
    Census,
    Due,
    Holder,
    IdempotencyKey,
    JobQuery,
    Kept,
    LaneCensus,
    Pruned,
    Queued,
    Quota,
)
from ktqueue.store.judging import (
    as_stored,
    census_of,
    census_of_lane,
    has_lapsed,
    holds,
    is_due,
    is_overdue,
    matches,
    through_json,
)
from ktqueue.store.limits import as_many_as_may, left_of
from ktqueue.tenant import NOBODY
from ktqueue.usage import DAY_MS, Bill, DayOfUse, UsageQuery, Use, together


@dataclass(frozen=True, slots=True)
class _Key:
    digest: str
    job_id: str


class Notes(Protocol):
    """What a store tells an outbox that it shares ``lock`` with: `ktqueue.outbox.memory` has it."""

    lock: RLock

    def note(self, jobs: Sequence[Job]) -> bool:
        """Leave what receivers are to be told of each job as it now is; whether there was any."""

    def note_progress(self, job: Job, progress: float) -> bool:
        """Leave how far a job has come; whether anybody is to be told."""

    def pending(self, job_id: str) -> bool:
        """Whether anybody is still to be told of a job."""

    def forget(self, job_id: str) -> None:
        """Delete what belongs to a job."""


class MemoryStore:
    """Implements `Store`; see there. ``clock`` stands for the database's and gives Unix milliseconds.

    ``on_outbox`` is called after each change that left something in ``outbox``.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        outbox: Notes,
        on_outbox: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._outbox = outbox
        self._on_outbox = on_outbox
        self._lock = self._outbox.lock
        self._jobs: dict[str, Job] = {}
        self._due_at: dict[str, int] = {}
        self._keys: dict[tuple[str, str], _Key] = {}
        self._attempts: dict[str, list[Attempt]] = {}
        self._usage: dict[tuple[int, str, str], Use] = {}

    def ping(self) -> None:
        """Memory is always there."""

    def now(self) -> int:
        """What the clock says."""
        return self._clock()

    def add(self, jobs: Sequence[Job]) -> None:
        """Commit new queued jobs, all or none; one that is there already stays as it is."""
        stored = [as_stored(job) for job in jobs]
        with self._lock:
            now = self._clock()
            for job in stored:
                if self._jobs.setdefault(job.id, job) is job:
                    self._due_at[job.id] = now if job.run_at is None else job.run_at
            self._note(stored)

    def add_once(self, job: Job, key: IdempotencyKey) -> Kept:
        """Add ``job`` unless the key is there already."""
        with self._lock:
            kept = self.kept(job.tenant, key.key)
            if kept is not None:
                return kept
            self.add([job])
            self._keys[job.tenant, key.key] = _Key(key.digest, job.id)
        return Kept(job_id=job.id, digest=key.digest, created=True)

    def kept(self, tenant: str, key: str) -> Kept | None:
        """What an add under this key of a tenant made."""
        with self._lock:
            kept = self._keys.get((tenant, key))
        return None if kept is None else Kept(job_id=kept.job_id, digest=kept.digest, created=False)

    def get(self, job_id: str) -> Job | None:
        """The job as it is now."""
        with self._lock:
            return self._jobs.get(job_id)

    def jobs(self, ids: Sequence[str]) -> list[Job]:
        """Those of these jobs that are there."""
        with self._lock:
            return list(self._given(ids))

    def search(self, query: JobQuery) -> list[Job]:
        """Jobs that match, newest first."""
        with self._lock:
            found = [job for job in self._jobs.values() if matches(job, query)]
        return sorted(found, key=lambda job: job.id, reverse=True)[: query.limit]

    def claim(
        self,
        ids: Sequence[str],
        *,
        token: str,
        worker: str,
        lease_ms: int,
        quota: Quota | None = None,
        least_ms_each: float = 0.0,
    ) -> list[Job]:
        """Make running what is queued, due and within its deadline; in the order of ids."""
        with self._lock:
            now = self._clock()
            others = [
                job
                for job in self._given(self._within(ids, quota))
                if job.company is None and not too_late(job.deadline_at, job.cost, now, least_ms_each)
            ]
            return self._claim(others, now, token, worker, lease_ms)

    def _within(self, ids: Sequence[str], quota: Quota | None) -> Sequence[str]:
        """The first of these jobs that a quota leaves room for."""
        if quota is None:
            return ids
        lane = None if quota.most is None else max(0, quota.most - self.running(quota.model))
        queued = (job for job in self._given(list(dict.fromkeys(ids))[:lane]) if job.state is JobState.QUEUED)
        return as_many_as_may(((job.id, job.owners) for job in queued), left_of(quota.owners, self.running_by_owner()))

    def running(self, model: str) -> int:
        """How many jobs of a lane run."""
        with self._lock:
            return sum(job.model == model and job.state is JobState.RUNNING for job in self._jobs.values())

    def running_by_owner(self) -> Mapping[str, int]:
        """How many jobs run of each tenant, and of each key, of which any does."""
        with self._lock:
            running = [job for job in self._jobs.values() if job.state is JobState.RUNNING]
        return Counter(owner for job in running for owner in job.owners)

    def _claim(self, jobs: Iterable[Job], now: int, token: str, worker: str, lease_ms: int) -> list[Job]:
        claimable = [job for job in jobs if self._due(job, now) and not is_overdue(job, now)]
        for job in claimable:
            self._change(
                job,
                state=JobState.RUNNING,
                attempt=job.attempt + 1,
                claims=job.claims + 1,
                token=token,
                worker=worker,
                started_at=now,
                lease_until=now + lease_ms,
            )
        claimed = [self._jobs[job.id] for job in claimable]
        self._note(claimed)
        return claimed

    def has_suspects(self, model: str, owners: Mapping[str, int] = NOBODY) -> bool:
        """Whether a suspect waits whose time has come; not of ``owners`` of whom as many run as may."""
        with self._lock:
            return bool(self._suspects(model, self._clock(), owners))

    def claim_suspects(
        self, model: str, limit: int, *, token: str, worker: str, lease_ms: int, quota: Quota | None = None
    ) -> list[Job]:
        """Claim suspects, those first that may have the most company, and as many as may share an engine."""
        with self._lock:
            now = self._clock()
            suspects = self._suspects(model, now, NOBODY if quota is None else quota.owners)
            company = max((job.company or 0 for job in suspects), default=0)
            alike = [job for job in suspects if job.company == company]
            first = nsmallest(min(limit, company), alike, key=lambda job: (job.rank, job.id))
            within = self._given(self._within([job.id for job in first], quota))
            return self._claim(within, now, token, worker, lease_ms)

    def _suspects(self, model: str, now: int, owners: Mapping[str, int]) -> list[Job]:
        full = {owner for owner, more in left_of(owners, self.running_by_owner()).items() if more <= 0}
        queued = (job for job in self._jobs.values() if job.model == model and job.company is not None)
        return [
            job for job in queued if full.isdisjoint(job.owners) and self._due(job, now) and not is_overdue(job, now)
        ]

    def renew(self, token: str, ids: Sequence[str], *, lease_ms: int) -> set[str]:
        """Extend the leases that ``token`` still holds; the ids of those."""
        with self._lock:
            held = [job for job in self._given(ids) if job.state is JobState.RUNNING and job.token == token]
            for job in held:
                self._change(job, lease_until=self._clock() + lease_ms)
        return {job.id for job in held}

    def finish(self, verdicts: Sequence[Verdict], *, only_lapsed: bool = False) -> set[str]:
        """Apply what is still fenced, drop the rest; the ids that changed."""
        changed = set()
        with self._lock:
            now = self._clock()
            for verdict in verdicts:
                job = self._jobs.get(verdict.fence.job_id)
                if job is not None and holds(verdict.fence, job) and (has_lapsed(job, now) or not only_lapsed):
                    self._apply(verdict, job, now)
                    changed.add(job.id)
            self._note([job for job_id in changed if (job := self._jobs[job_id]).state.terminal])
        return changed

    def _apply(self, verdict: Verdict, job: Job, now: int) -> None:
        if verdict.state.terminal:
            self._end(
                job,
                verdict.state,
                now,
                result=through_json(verdict.result),
                error=verdict.error,
                usage=verdict.usage,
                largest_batch=verdict.largest_batch,
                device_s=verdict.device_s or 0.0,
                ride=verdict.ride,
            )
            return
        self._keep_attempt(job, verdict, now)
        self._due_at[job.id] = now if verdict.run_at is None else verdict.run_at
        self._change(
            job,
            state=JobState.QUEUED,
            company=verdict.company,
            crashes=verdict.crashes,
            attempt=job.attempt - (not verdict.charged),
            run_at=verdict.run_at,
            token=None,
            worker=None,
            lease_until=None,
            started_at=None,
        )

    def _keep_attempt(self, job: Job, verdict: Verdict, now: int) -> None:
        running = last_attempt(job)
        assert running is not None, "only what runs has a verdict"
        outcome = outcome_of(verdict.state, verdict.error)
        ended = replace(
            running,
            charged=verdict.charged,
            ended_at=now,
            outcome=outcome,
            error=verdict.error,
            device_s=verdict.device_s,
            ride=verdict.ride,
        )
        self._attempts.setdefault(job.id, []).append(ended)

    def cancel(self, job_id: str) -> Job | None:
        """Cancel unless terminal; the job as it was before."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is not None and not job.state.terminal:
                self._end(job, JobState.CANCELLED, self._clock())
                self._note([self._jobs[job_id]])
        return job

    def tell_progress(self, token: str, progress: Mapping[str, float]) -> None:
        """Leave in the outbox how far jobs have come that ``token`` still holds; not often."""
        with self._lock:
            held = [job for job in self._given(list(progress)) if job.token == token]
            left = sum(self._outbox.note_progress(job, progress[job.id]) for job in held)
        if left:
            self._on_outbox()

    def _note(self, jobs: Sequence[Job]) -> None:
        if self._outbox.note(jobs):
            self._on_outbox()

    def count_queued(self, which: Queued) -> int:
        """How many these are."""
        with self._lock:
            return len(self._queued(which))

    def cancel_queued(self, which: Queued, limit: int) -> list[Job]:
        """Cancel up to ``limit`` of these; those jobs as they were before."""
        with self._lock:
            first = self._queued(which)[:limit]
            for job in first:
                self._end(job, JobState.CANCELLED, self._clock())
            self._note([self._jobs[job.id] for job in first])
        return first

    def _queued(self, which: Queued) -> list[Job]:
        queued = (job for job in self._jobs.values() if job.model == which.model and job.state is JobState.QUEUED)
        return [
            job
            for job in queued
            if which.tenant in {None, job.tenant}
            and (which.created_before is None or job.created_at < which.created_before)
        ]

    def expire(self, limit: int, *, running_after_ms: int = 0) -> list[Job]:
        """Expire what is past its deadline; those jobs as they were before."""
        with self._lock:
            now = self._clock()
            late = {JobState.QUEUED: now, JobState.RUNNING: now - running_after_ms}
            overdue = [job for job in self._jobs.values() if job.state in late and is_overdue(job, late[job.state])]
            first = nsmallest(limit, overdue, key=lambda job: job.deadline_at or 0)
            for job in first:
                self._end(job, JobState.EXPIRED, now)
            self._note([self._jobs[job.id] for job in first])
        return first

    def due_within(self, ms: int, limit: int) -> list[Due]:
        """The queued jobs among the next deadlines, if they come within so many milliseconds, soonest first."""
        with self._lock:
            until = self._clock() + ms
            soon = [
                (job.deadline_at, job)
                for job in self._jobs.values()
                if job.deadline_at is not None and job.deadline_at <= until and not job.state.terminal
            ]
        first = nsmallest(limit, soon, key=lambda each: each[0])
        return [
            Due(job.id, job.model, job.cost, deadline_at) for deadline_at, job in first if job.state is JobState.QUEUED
        ]

    def expire_late(self, ids: Sequence[str], *, least_ms_each: float) -> list[Job]:
        """Expire those of these jobs that are queued and too late; as they were before."""
        with self._lock:
            now = self._clock()
            late = [
                job
                for job in self._given(ids)
                if job.state is JobState.QUEUED and too_late(job.deadline_at, job.cost, now, least_ms_each)
            ]
            for job in late:
                self._end(job, JobState.EXPIRED, now)
            self._note([self._jobs[job.id] for job in late])
        return late

    def lapsed(self, limit: int) -> list[Job]:
        """Running jobs whose lease has run out, the longest ago first."""
        with self._lock:
            now = self._clock()
            found = [job for job in self._jobs.values() if has_lapsed(job, now)]
        return nsmallest(limit, found, key=lambda job: job.lease_until or 0)

    def holders(self) -> list[Holder]:
        """Every token under which something runs."""
        with self._lock:
            held = {(job.token, job.worker) for job in self._jobs.values() if job.state is JobState.RUNNING}
        return [Holder(token, worker) for token, worker in sorted(held) if token is not None and worker is not None]

    def held(self, token: str) -> list[Job]:
        """What runs under ``token``."""
        with self._lock:
            held = [job for job in self._jobs.values() if job.state is JobState.RUNNING and job.token == token]
        return sorted(held, key=lambda job: job.id)

    def attempts(self, job_id: str) -> list[Attempt]:
        """The attempts after which the job was queued again, oldest first."""
        with self._lock:
            return list(self._attempts.get(job_id, []))

    def wake(self, limit: int) -> list[Job]:
        """Clear ``run_at`` of queued jobs whose time has come; those jobs, earliest first."""
        with self._lock:
            now = self._clock()
            scheduled = [job for job in self._jobs.values() if job.run_at is not None and self._due(job, now)]
            first = nsmallest(limit, scheduled, key=lambda job: job.run_at or 0)
            for job in first:
                self._change(job, run_at=None)
            return [self._jobs[job.id] for job in first]

    def waiting(self, model: str, *, after: Entry | None, limit: int) -> list[Entry]:
        """Due queued jobs of a lane in rank order, those after ``after``."""
        with self._lock:
            now = self._clock()
            lane = [job for job in self._jobs.values() if job.model == model and job.company is None]
            due = [entry_of(job, self._due_at[job.id]) for job in lane if self._due(job, now)]
        if after is not None:
            due = [entry for entry in due if (entry.rank, entry.id) > (after.rank, after.id)]
        return nsmallest(limit, due, key=lambda entry: (entry.rank, entry.id))

    def census(self) -> list[LaneCensus]:
        """Every lane with at least one job queued or running."""
        with self._lock:
            now = self._clock()
            active = [job for job in self._jobs.values() if not job.state.terminal]
            models = sorted({job.model for job in active})
            lanes = ((model, [job for job in active if job.model == model]) for model in models)
            return [census_of_lane(model, theirs, self._due_at, now) for model, theirs in lanes]

    def tenant_census(self) -> list[Census]:
        """Every tenant with at least one job queued or running, or with ended ones that take some bytes."""
        return self._census_of(lambda job: job.tenant)

    def key_census(self) -> list[Census]:
        """The same of keys."""
        return self._census_of(lambda job: job.key)

    def _census_of(self, whose: Callable[[Job], str | None]) -> list[Census]:
        found: defaultdict[str, list[Job]] = defaultdict(list)
        with self._lock:
            for job in self._jobs.values():
                if (name := whose(job)) is not None:
                    found[name].append(job)
        counted = (census_of(name, theirs) for name, theirs in sorted(found.items()))
        return [census for census in counted if census != Census(census.whose)]

    def usage(self, query: UsageQuery) -> list[DayOfUse]:
        """What was used, by day, tenant and model."""
        with self._lock:
            days = [DayOfUse(key[0], self._usage[key]) for key in sorted(self._usage)]
        return [day for day in days if query.matches(day)][: query.limit]

    def post(self) -> None:
        """Here the sums are always those of now."""

    def delete(self, job_id: str) -> bool:
        """Delete a terminal job, its attempts and its idempotency keys; whether one was deleted."""
        with self._lock:
            job = self._jobs.get(job_id)
            if job is None or not job.state.terminal:
                return False
            del self._jobs[job_id], self._due_at[job_id]
            self._attempts.pop(job_id, None)
            self._outbox.forget(job_id)
            self._keys = {key: kept for key, kept in self._keys.items() if kept.job_id != job_id}
        return True

    def prune(self, before: int, *, after: str, limit: int) -> Pruned:
        """Delete what ended before ``before``, of the ``limit`` jobs whose ids follow ``after``."""
        with self._lock:
            page = [self._jobs[job_id] for job_id in nsmallest(limit, (each for each in self._jobs if each > after))]
            old = [job for job in page if job.finished_at is not None and job.finished_at < before]
            ended = [job for job in old if not self._outbox.pending(job.id)]
            for job in ended:
                self.delete(job.id)
        young = all(job.created_at >= before for job in page)
        return Pruned(len(ended), None if young else page[-1].id)

    def _given(self, ids: Sequence[str]) -> Iterator[Job]:
        return (self._jobs[job_id] for job_id in dict.fromkeys(ids) if job_id in self._jobs)

    def _due(self, job: Job, now: int) -> bool:
        return is_due(job, self._due_at, now)

    def _end(self, job: Job, state: JobState, now: int, **values: Any) -> None:
        self._change(job, state=state, finished_at=now, token=None, lease_until=None, **values)
        bill = Bill()
        bill.add(job.tenant, job.model, state, values.get("usage"), values.get("device_s", 0.0))
        for use in bill.uses():
            key = now // DAY_MS, use.tenant, use.model
            self._usage[key] = together(self._usage[key], use) if key in self._usage else use

    def _change(self, job: Job, **values: Any) -> None:
        self._jobs[job.id] = replace(job, **values)
