"""The store on SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import sqlalchemy as sa

from ktqueue.job import Attempt, Job, JobState, Verdict, ended_size, owners_of
from ktqueue.priority_class import Entry
from ktqueue.sql.clock import Clock
from ktqueue.sql.database import Database
from ktqueue.store import claiming, counting, journal, noting, statements
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
from ktqueue.store.limits import as_many_as_may
from ktqueue.store.rows import (
    Running,
    attempt_of,
    attempt_row,
    error_document,
    job_of,
    progress_row,
    ride_document,
    row_of,
    usage_document,
)
from ktqueue.tenant import NOBODY
from ktqueue.usage import Bill, DayOfUse, UsageQuery

Note: TypeAlias = Callable[[Collection[Job | Running]], None]


class SqlStore:
    """Implements `Store`; see there. The tables must be there: `ktqueue.migrate.upgrade` makes them."""

    def __init__(self, url: str, on_outbox: Callable[[], None] = lambda: None) -> None:
        """``url`` is SQLAlchemy's: ``sqlite:///…`` or ``postgresql+psycopg://…``. Make it after a fork.

        ``on_outbox`` is called after each commit that left something to deliver.
        """
        self._database = Database(url)
        self._on_outbox = on_outbox
        self._clock = Clock(self._read_clock)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._database.close()

    def ping(self) -> None:
        """Really ask; fails too if the tables are not there."""
        with self._database.reader() as connection:
            connection.execute(statements.PING).first()

    def now(self) -> int:
        """The database's clock, extrapolated for some seconds."""
        return self._clock.now()

    def _read_clock(self) -> int:
        with self._database.reader() as connection:
            return int(connection.execute(statements.NOW).scalar_one())

    def add(self, jobs: Sequence[Job]) -> None:
        """Commit new queued jobs, all or none; one that is there already stays as it is."""
        if jobs:
            with self._noting() as (connection, note):
                statements.ADD(connection, [row_of(job) for job in jobs])
                note(jobs)

    def add_once(self, job: Job, key: IdempotencyKey) -> Kept:
        """Commit ``job`` unless the key is there; the unique key decides between concurrent callers."""
        with self._noting() as (connection, note):
            # Another caller's key is seen once it is committed; it may be deleted again before we read it.
            while not self._keep(connection, job, key):
                kept = connection.execute(statements.KEPT, {"tenant": job.tenant, "key": key.key}).one_or_none()
                if kept is not None:
                    return Kept(job_id=kept.job_id, digest=kept.digest, created=False)
            statements.ADD(connection, [row_of(job)])
            note([job])
        return Kept(job_id=job.id, digest=key.digest, created=True)

    def _keep(self, connection: sa.Connection, job: Job, key: IdempotencyKey) -> bool:
        row = {"tenant": job.tenant, "key": key.key, "digest": key.digest, "job_id": job.id}
        return connection.execute(statements.KEEP_KEY, row).rowcount == 1

    def kept(self, tenant: str, key: str) -> Kept | None:
        """What an add under this key of a tenant made."""
        with self._database.reader() as connection:
            row = connection.execute(statements.KEPT, {"tenant": tenant, "key": key}).one_or_none()
        return None if row is None else Kept(job_id=row.job_id, digest=row.digest, created=False)

    def get(self, job_id: str) -> Job | None:
        """The job as it is now."""
        with self._database.reader() as connection:
            row = connection.execute(statements.GET, {"job_id": job_id}).one_or_none()
        return None if row is None else job_of(row)

    def jobs(self, ids: Sequence[str]) -> list[Job]:
        """Those of these jobs that are there."""
        with self._database.reader() as connection:
            return _jobs_of(connection.execute(statements.JOBS, {"ids": list(ids)}))

    def search(self, query: JobQuery) -> list[Job]:
        """Jobs that match, newest first."""
        with self._database.reader() as connection:
            return _jobs_of(connection.execute(statements.search(query)))

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
        with self._noting() as (connection, note):
            given = {
                "ids": claiming.within(connection, ids, quota),
                "new_token": token,
                "new_worker": worker,
                "lease_ms": lease_ms,
                "least_ms_each": least_ms_each,
            }
            claimed = {job.id: job for job in _jobs_of(connection.execute(statements.CLAIM, given))}
            note(claimed.values())
        return [claimed[job_id] for job_id in dict.fromkeys(ids) if job_id in claimed]

    def running(self, model: str) -> int:
        """How many jobs of a lane run."""
        with self._database.reader() as connection:
            return int(connection.execute(claiming.COUNT_RUNNING, {"lane": model}).scalar_one())

    def running_by_owner(self) -> dict[str, int]:
        """How many jobs run of each tenant, and of each key, of which any does."""
        with self._database.reader() as connection:
            return claiming.running_by_owner(connection)

    def has_suspects(self, model: str, owners: Mapping[str, int] = NOBODY) -> bool:
        """Whether a suspect waits whose time has come; not of ``owners`` of whom as many run as may."""
        with self._database.reader() as connection:
            full = claiming.full(claiming.left_of_owners(connection, owners))
            return connection.execute(statements.MOST_COMPANY, {"lane": model, "full": full}).scalar_one() is not None

    def claim_suspects(
        self, model: str, limit: int, *, token: str, worker: str, lease_ms: int, quota: Quota | None = None
    ) -> list[Job]:
        """Claim suspects, those first that may have the most company, and as many as may share an engine."""
        with self._noting() as (connection, note):
            if quota is not None and (lane_left := claiming.left_of_lane(connection, quota)) is not None:
                limit = min(limit, lane_left)
            left = {} if quota is None else claiming.left_of_owners(connection, quota.owners, to_claim=True)
            these = {"lane": model, "full": claiming.full(left)}
            company = connection.execute(statements.MOST_COMPANY, these).scalar_one()
            if company is None:
                return []
            these |= {"most_company": company, "most": min(limit, company)}
            suspects = connection.execute(statements.SUSPECTS, these).all()
            given = {
                "ids": as_many_as_may([(row.id, owners_of(row.tenant, row.key)) for row in suspects], left),
                "new_token": token,
                "new_worker": worker,
                "lease_ms": lease_ms,
            }
            claimed = _jobs_of(connection.execute(statements.CLAIM_SUSPECTS, given))
            note(claimed)
        return sorted(claimed, key=lambda job: (job.rank, job.id))

    def renew(self, token: str, ids: Sequence[str], *, lease_ms: int) -> set[str]:
        """Extend the leases that ``token`` still holds; the ids of those."""
        given = {"ids": list(ids), "held_token": token, "lease_ms": lease_ms}
        with self._database.writer() as connection:
            return set(connection.execute(statements.RENEW, given).scalars())

    def finish(self, verdicts: Sequence[Verdict], *, only_lapsed: bool = False) -> set[str]:
        """Apply what is still fenced, drop the rest; the ids that changed."""
        if not verdicts:
            return set()
        ours = statements.LAPSED_RUNNING if only_lapsed else statements.RUNNING
        with self._noting() as (connection, note):
            rows = connection.execute(ours, {"ids": [verdict.fence.job_id for verdict in verdicts]}).all()
            fenced = _fenced(verdicts, [Running._make(row) for row in rows])
            again = [(job, verdict) for job, verdict in fenced if not verdict.state.terminal]
            if again:
                connection.execute(statements.KEEP_ATTEMPT, [attempt_row(job, verdict) for job, verdict in again])
            statements.REQUEUE(connection, [_requeue_row(verdict) for _, verdict in again])
            ended = [
                (job, verdict, ended_size(job.size, verdict.result, verdict.error))
                for job, verdict in fenced
                if verdict.state.terminal
            ]
            statements.FINISH(connection, [_finish_row(verdict, size) for _, verdict, size in ended])
            note([job for job, _, _ in ended])
            bill = Bill()
            for job, verdict, _ in ended:
                bill.add(job.tenant, job.model, verdict.state, verdict.usage, verdict.device_s or 0.0)
            journal.enter(connection, [(job.tenant, job.key, size) for job, _, size in ended], bill)
        return {job.id for job, _ in fenced}

    def tell_progress(self, token: str, progress: Mapping[str, float]) -> None:
        """Leave in the outbox how far jobs have come that ``token`` still holds; not often."""
        with self._database.reader() as connection:
            wanted = connection.execute(noting.WANT_PROGRESS, {"ids": list(progress)}).scalars().all()
        if not wanted:
            return
        rows = [progress_row(job_id, token, progress[job_id]) for job_id in wanted]
        with self._database.transaction() as connection:
            connection.execute(noting.NOTE_PROGRESS, rows)
        self._on_outbox()

    def cancel(self, job_id: str) -> Job | None:
        """Cancel unless terminal; the job as it was before."""
        with self._noting() as (connection, note):
            row = connection.execute(statements.GET_LOCKED, {"job_id": job_id}).one_or_none()
            if row is None:
                return None
            job = job_of(row)
            if not job.state.terminal:
                _end(connection, [job], JobState.CANCELLED, note)
        return job

    def count_queued(self, which: Queued) -> int:
        """How many these are."""
        with self._database.reader() as connection:
            return sum(int(connection.execute(count).scalar_one()) for count in statements.counts_of(which))

    def cancel_queued(self, which: Queued, limit: int) -> list[Job]:
        """Cancel up to ``limit`` of these; those jobs as they were before."""
        with self._noting() as (connection, note):
            cancelled: list[Job] = []
            for part in statements.parts_of(which):
                if most := limit - len(cancelled):
                    cancelled += _jobs_of(connection.execute(part, {"most": most}))
            _end(connection, cancelled, JobState.CANCELLED, note)
        return cancelled

    def expire(self, limit: int, *, running_after_ms: int = 0) -> list[Job]:
        """Expire what is past its deadline; those jobs as they were before."""
        with self._noting() as (connection, note):
            given = {"most": limit, "running_after_ms": running_after_ms}
            overdue = _jobs_of(connection.execute(statements.OVERDUE, given))
            _end(connection, overdue, JobState.EXPIRED, note)
        return overdue

    def due_within(self, ms: int, limit: int) -> list[Due]:
        """The queued jobs among the next deadlines, if they come within so many milliseconds, soonest first."""
        with self._database.reader() as connection:
            rows = connection.execute(statements.DUE_WITHIN, {"within_ms": ms, "most": limit}).all()
        return [Due(*row[1:]) for row in rows if row.state == JobState.QUEUED]

    def expire_late(self, ids: Sequence[str], *, least_ms_each: float) -> list[Job]:
        """Expire those of these jobs that are queued and too late; as they were before."""
        if not ids:
            return []
        with self._noting() as (connection, note):
            given = {"ids": list(ids), "least_ms_each": least_ms_each}
            late = _jobs_of(connection.execute(statements.TOO_LATE, given))
            _end(connection, late, JobState.EXPIRED, note)
        return late

    def lapsed(self, limit: int) -> list[Job]:
        """Running jobs whose lease has run out, the longest ago first."""
        with self._database.reader() as connection:
            return _jobs_of(connection.execute(statements.LAPSED, {"most": limit}))

    def holders(self) -> list[Holder]:
        """Every token under which something runs."""
        with self._database.reader() as connection:
            return [Holder(*row) for row in connection.execute(statements.HOLDERS)]

    def held(self, token: str) -> list[Job]:
        """What runs under ``token``."""
        with self._database.reader() as connection:
            return _jobs_of(connection.execute(statements.HELD, {"held_token": token}))

    def attempts(self, job_id: str) -> list[Attempt]:
        """The attempts after which the job was queued again, oldest first."""
        with self._database.reader() as connection:
            return [attempt_of(row) for row in connection.execute(statements.ATTEMPTS, {"job_id": job_id})]

    def wake(self, limit: int) -> list[Job]:
        """Clear ``run_at`` of queued jobs whose time has come; those jobs, earliest first."""
        with self._database.transaction() as connection:
            scheduled = _jobs_of(connection.execute(statements.SCHEDULED, {"most": limit}))
            if scheduled:
                connection.execute(statements.WAKE, {"ids": [job.id for job in scheduled]})
        return [replace(job, run_at=None) for job in scheduled]

    def waiting(self, model: str, *, after: Entry | None, limit: int) -> list[Entry]:
        """Due queued jobs of a lane in rank order, those after ``after``."""
        given: dict[str, Any] = {"lane": model, "most": limit}
        statement = statements.WAITING
        if after is not None:
            statement = statements.WAITING_AFTER
            given |= {"after_rank": after.rank, "after_id": after.id}
        with self._database.reader() as connection:
            return [Entry(model, *row) for row in connection.execute(statement, given)]

    def census(self) -> list[LaneCensus]:
        """Every lane with at least one job queued or running."""
        with self._database.reader() as connection:
            return [LaneCensus(*row) for row in connection.execute(counting.CENSUS)]

    def tenant_census(self) -> list[Census]:
        """Every tenant with at least one job queued or running, or with ended ones that take some bytes."""
        self.post()
        with self._database.reader() as connection:
            return [Census(*row) for row in connection.execute(counting.TENANT_CENSUS)]

    def key_census(self) -> list[Census]:
        """The same of keys."""
        self.post()
        with self._database.reader() as connection:
            return [Census(*row) for row in connection.execute(counting.KEY_CENSUS)]

    def usage(self, query: UsageQuery) -> list[DayOfUse]:
        """What was used, by day, tenant and model."""
        self.post()
        with self._database.reader() as connection:
            return [journal.day_of(row) for row in connection.execute(journal.search(query))]

    def post(self) -> None:
        """Add up what is entered by now."""
        with self._database.reader() as connection:
            last = connection.execute(journal.LAST).scalar_one()
        more = last is not None
        while more:
            with self._database.transaction() as connection:
                more = journal.post(connection, last)

    def delete(self, job_id: str) -> bool:
        """Delete a terminal job, its attempts and its idempotency keys; whether one was deleted."""
        with self._database.transaction() as connection:
            freed = connection.execute(statements.DELETE, {"job_id": job_id}).all()
            if freed:
                _forget(connection, [job_id], freed)
        return bool(freed)

    @contextmanager
    def _noting(self) -> Iterator[tuple[sa.Connection, Note]]:
        """A transaction, and a way to leave in the outbox what has just become of jobs."""
        left = 0

        def note(changed: Collection[Job | Running]) -> None:
            nonlocal left
            # Looking is cheaper than noting nothing, and most jobs are told to nobody.
            if changed and (_own_webhooks(changed) or connection.exec_driver_sql(noting.ANY_ENDPOINT).first()):
                left += connection.execute(noting.NOTE, {"ids": [each.id for each in changed]}).rowcount

        with self._database.transaction() as connection:
            yield connection, note
        if left:
            self._on_outbox()

    def prune(self, before: int, *, after: str, limit: int) -> Pruned:
        """Delete what ended before ``before``, of the ``limit`` jobs whose ids follow ``after``."""
        with self._database.reader() as connection:
            page = connection.execute(statements.OLDEST, {"after_id": after, "most": limit}).all()
        ended = [row.id for row in page if row.finished_at is not None and row.finished_at < before]
        young = all(row.created_at >= before for row in page)
        return Pruned(self._forget(ended) if ended else 0, None if young else page[-1].id)

    def _forget(self, ids: list[str]) -> int:
        with self._database.transaction() as connection:
            ended = list(connection.execute(statements.ENDED, {"ids": ids}).scalars())
            _forget(connection, ended, connection.execute(statements.PRUNE, {"ids": ended}).all())
        return len(ended)


def _jobs_of(result: sa.Result[Any]) -> list[Job]:
    return [job_of(row) for row in result.all()]


def _end(connection: sa.Connection, jobs: Sequence[Job], state: JobState, note: Note) -> None:
    """End by decree, not by verdict. The rows of ``jobs`` are locked, and none is terminal."""
    if not jobs:
        return
    connection.execute(statements.END, {"ids": [job.id for job in jobs], "new_state": str(state)})
    note(jobs)
    bill = Bill()
    bill.add_unheard(jobs, state)
    journal.enter(connection, [(job.tenant, job.key, job.size) for job in jobs], bill)


def _forget(connection: sa.Connection, ids: Sequence[str], freed: Iterable[journal.Size]) -> None:
    """What goes with jobs that were deleted; ``freed`` is what they took."""
    for statement in statements.FORGET:
        connection.execute(statement, {"ids": list(ids)})
    journal.enter(connection, freed)


def _own_webhooks(changed: Iterable[Job | Running]) -> bool:
    return any(each.webhook_events for each in changed)


def _fenced(verdicts: Sequence[Verdict], rows: Sequence[Running]) -> list[tuple[Running, Verdict]]:
    """The verdicts that may be written, of each job the first, with the rows of their jobs."""
    running = {row[:3]: row for row in rows}
    pairs = ((running.pop(verdict.fence, None), verdict) for verdict in verdicts)
    return [(row, verdict) for row, verdict in pairs if row is not None]


def _fence_row(verdict: Verdict) -> dict[str, Any]:
    fence = verdict.fence
    return {"job_id": fence.job_id, "fence_token": fence.token, "fence_claim": fence.claim}


def _requeue_row(verdict: Verdict) -> dict[str, Any]:
    return _fence_row(verdict) | {
        "given_back": int(not verdict.charged),
        "new_run_at": verdict.run_at,
        "new_company": verdict.company,
        "new_crashes": verdict.crashes,
    }


def _finish_row(verdict: Verdict, size: int) -> dict[str, Any]:
    return _fence_row(verdict) | {
        "new_state": str(verdict.state),
        "new_result": verdict.result,
        "new_error": error_document(verdict.error),
        "new_usage": usage_document(verdict.usage),
        "new_largest_batch": verdict.largest_batch,
        "new_device_s": verdict.device_s or 0.0,
        "new_ride": ride_document(verdict.ride),
        "new_stored": size,
    }
