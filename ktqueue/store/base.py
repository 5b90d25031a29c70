"""The store: the one truth about every job. What it says is so; lanes and events are rebuilt from it.

Whatever changes a job's state leaves in the outbox, in the same transaction, what webhooks are to be told of it.

Every method is one transaction. Any method may raise StoreUnavailable, and then nothing was changed or it is
unknown whether it was (a commit whose answer was lost); all are safe to repeat. Instants are Unix milliseconds on
the database's own clock, so a client's or a worker's clock may be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ktqueue.job import Attempt, Job, JobState, Verdict
from ktqueue.priority_class import Entry
from ktqueue.tenant import NOBODY
from ktqueue.usage import DayOfUse, UsageQuery


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Which jobs to list, newest first (by id). ``before`` is the last id of the page before.

    ``created_from`` is part of the span of time, ``created_to`` is the first instant after it. Without ``tenant``:
    everybody's.
    """

    tenant: str | None = None
    ids: Sequence[str] = ()
    states: Sequence[JobState] = ()
    model: str | None = None
    created_from: int | None = None
    created_to: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    before: str | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's key, and the digest of the request it came with."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What an idempotent add found or made: the job as it is now, the digest kept with the key."""

    job_id: str
    digest: str
    created: bool


@dataclass(frozen=True, slots=True)
class LaneCensus:
    """What the store knows of one lane.

    ``due`` counts queued jobs whose time has come, ``suspects`` those of them that run apart and so are in no lane
    (``due`` does not count them). ``size`` is the bytes of what is queued.
    """

    model: str
    queued: int
    due: int
    running: int
    oldest_due_at: int | None
    suspects: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Census:
    """How many jobs of a tenant, or a key, wait and run, the bytes of those that wait, and of all, ended ones too."""

    whose: str
    queued: int = 0
    running: int = 0
    size: int = 0
    stored: int = 0


@dataclass(frozen=True, slots=True)
class Due:
    """A queued job whose deadline comes soon."""

    id: str
    model: str
    cost: int
    deadline_at: int


@dataclass(frozen=True, slots=True)
class Holder:
    """Who runs jobs under one token."""

    token: str
    worker: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many jobs were deleted, and the id to go on after; None if the rest is too young."""

    jobs: int
    reached: str | None


@dataclass(frozen=True, slots=True)
class Quota:
    """The most jobs that may run at once: of a lane, if that is bounded, and in all lanes of owners that are."""

    model: str
    most: int | None = None
    owners: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queued:
    """Which queued jobs: a lane's; only a tenant's, only those created before an instant, if those are given."""

    model: str
    tenant: str | None = None
    created_before: int | None = None


class Store(Protocol):
    """Durable jobs."""

    def ping(self) -> None:
        """Really ask the database; raises StoreUnavailable."""

    def now(self) -> int:
        """The database's clock. Cheap: may be extrapolated for some seconds by a monotonic clock."""

    def add(self, jobs: Sequence[Job]) -> None:
        """Commit new queued jobs, all or none."""

    def add_once(self, job: Job, key: IdempotencyKey) -> Kept:
        """Commit ``job`` unless its tenant's key is there already; concurrent callers get one and the same job."""

    def kept(self, tenant: str, key: str) -> Kept | None:
        """What an add under this key of a tenant made, if there was one."""

    def get(self, job_id: str) -> Job | None:
        """The job as it is now."""

    def jobs(self, ids: Sequence[str]) -> list[Job]:
        """Those of these jobs that are there, in any order."""

    def search(self, query: JobQuery) -> list[Job]:
        """Jobs that match, newest first, at most ``query.limit``."""

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
        """Make running, under ``token``, those that are queued, due and within their deadline; in the order of ids.

        Within it is what could run that long for each unit of its cost before it.

        A claimed job has attempt + 1, claims + 1, started_at now, and a lease of ``lease_ms``. Suspects are left alone.
        With a ``quota``, which all callers must then give, no more are than it leaves room for.
        """

    def running(self, model: str) -> int:
        """How many jobs of a lane run."""

    def running_by_owner(self) -> Mapping[str, int]:
        """How many jobs run of each tenant, and of each key, of which any does."""

    def has_suspects(self, model: str, owners: Mapping[str, int] = NOBODY) -> bool:
        """Whether a suspect waits whose time has come; not of ``owners`` of whom as many run as may."""

    def claim_suspects(
        self, model: str, limit: int, *, token: str, worker: str, lease_ms: int, quota: Quota | None = None
    ) -> list[Job]:
        """Claim suspects, those first that may have the most company, and as many as may share an engine."""

    def renew(self, token: str, ids: Sequence[str], *, lease_ms: int) -> set[str]:
        """Extend the leases that ``token`` still holds; the ids of those (the others are lost to the caller)."""

    def finish(self, verdicts: Sequence[Verdict], *, only_lapsed: bool = False) -> set[str]:
        """Apply what is still fenced, drop the rest; the ids that changed.

        A QUEUED verdict keeps the attempt as a row of its own, clears token, worker, lease and started_at and, if
        uncharged, takes the attempt back. With ``only_lapsed`` a job whose lease is still good is left alone.
        """

    def tell_progress(self, token: str, progress: Mapping[str, float]) -> None:
        """Leave in the outbox how far (0-1) jobs have come that ``token`` still holds; for each job not often."""

    def cancel(self, job_id: str) -> Job | None:
        """Cancel unless terminal; the job as it was *before*, or None if there is none."""

    def count_queued(self, which: Queued) -> int:
        """How many these are; each is looked at."""

    def cancel_queued(self, which: Queued, limit: int) -> list[Job]:
        """Cancel up to ``limit`` of these; those jobs as they were before."""

    def expire(self, limit: int, *, running_after_ms: int = 0) -> list[Job]:
        """Expire jobs past their deadline; those jobs as they were before. Running ones so much later."""

    def due_within(self, ms: int, limit: int) -> list[Due]:
        """The queued jobs among the next ``limit`` deadlines, those within so many milliseconds, soonest first."""

    def expire_late(self, ids: Sequence[str], *, least_ms_each: float) -> list[Job]:
        """Expire those of these jobs that are queued and too late (see `ktqueue.lateness`); as they were before."""

    def lapsed(self, limit: int) -> list[Job]:
        """Running jobs whose lease has run out."""

    def holders(self) -> list[Holder]:
        """Every token under which something runs."""

    def held(self, token: str) -> list[Job]:
        """What runs under ``token``."""

    def attempts(self, job_id: str) -> list[Attempt]:
        """The attempts after which the job was queued again, oldest first. The last one is told by the job itself."""

    def wake(self, limit: int) -> list[Job]:
        """Queued jobs whose ``run_at`` has come: it is cleared, so each is told once; those jobs, earliest first."""

    def waiting(self, model: str, *, after: Entry | None, limit: int) -> list[Entry]:
        """Due queued jobs of a lane in rank order, those after ``after``."""

    def census(self) -> list[LaneCensus]:
        """Every lane with at least one job queued or running."""

    def tenant_census(self) -> list[Census]:
        """Every tenant with at least one job queued or running, or with ended ones that take some bytes.

        What has ended is not counted anew: that sum is written where jobs are ended and deleted.
        """

    def key_census(self) -> list[Census]:
        """The same of keys."""

    def usage(self, query: UsageQuery) -> list[DayOfUse]:
        """What was used by the jobs that ended, by day, tenant and model; written where they are ended.

        Jobs that are deleted stay in it.
        """

    def post(self) -> None:
        """Add up what was used and is stored. Whoever reads these sums does so first; it is to be little then."""

    def delete(self, job_id: str) -> bool:
        """Delete a terminal job and all that belongs to it, told or not; whether one was deleted."""

    def prune(self, before: int, *, after: str, limit: int) -> Pruned:
        """Delete what ended before ``before``, of the ``limit`` jobs whose ids follow ``after``; "" is before all.

        What a webhook is still to be told of is left alone.
        """
