"""What a tenant, and a key, may spend: requests and tokens in a minute, jobs that are not finished, bytes of jobs.

Rates are counted in Redis; while it is away nothing is refused for them. How much a tenant has waiting is counted in
the store now and then, with what this process let in since: so it holds give or take what others let in meanwhile.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock

from ktqueue.errors import LanesUnavailable, LimitExceeded, StoreUnavailable
from ktqueue.job import Job
from ktqueue.rates.base import WINDOW_S, Left, RateCounters
from ktqueue.registry.base import Registry
from ktqueue.store.base import Store, TenantCensus
from ktqueue.tenant import Caller, Tenant

BELIEVED_S = 2.0
"""How long limits that were read are believed, and so how soon a change of them acts."""
COUNTED_S = 1.0
COUNTING_SHARE = 20
"""Counting a large backlog takes long; it is done for at most one part of the time in so many."""
FULL_RETRY_AFTER_S = 5
STORED_RETRY_AFTER_S = 60
"""What ended goes when it is deleted, by its tenant or past its retention, which is looked for about so often."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a limit stands: ``most`` of what is ``named`` in a minute."""

    name: str
    most: int
    left: Left


@dataclass(frozen=True, slots=True)
class Used:
    """What a tenant has of what its limits of these names bound."""

    queued_jobs: int
    unfinished_jobs: int
    queued_bytes: int
    stored_bytes: int
    running_jobs: int


def used_of(census: TenantCensus, jobs: int = 0, size: int = 0) -> Used:
    """What was counted, and ``jobs`` of ``size`` bytes that were let in since."""
    queued = census.queued + jobs
    return Used(queued, queued + census.running, census.size + size, census.stored + size, census.running)


@dataclass(slots=True)
class _Count:
    """What tenants had when they were counted, and what was let in since."""

    until: float = 0.0
    tenants: Mapping[str, TenantCensus] = field(default_factory=dict)
    jobs: Counter[str] = field(default_factory=Counter)
    size: Counter[str] = field(default_factory=Counter)

    def used(self, name: str) -> Used:
        """What a tenant has by now."""
        return used_of(self.tenants.get(name) or TenantCensus(name), self.jobs[name], self.size[name])


class Quotas:
    """The limits of all tenants, as one process keeps them. Thread-safe."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        counters: RateCounters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._store = store
        self._counters = counters
        self._clock = clock
        self._tenants: Mapping[str, Tenant] = {}
        self._tenants_until = 0.0
        self._count = _Count()
        self._lock = Lock()

    def request(self, caller: Caller) -> list[Standing]:
        """Count a request; how the limits on requests stand then. Raises LimitExceeded."""
        rates = self._tenant(caller.tenant).rates, caller.rates
        return self._spend("requests", caller, [rate.requests_per_minute for rate in rates], 1, whole=True)

    def admit(self, jobs: Sequence[Job], caller: Caller) -> None:
        """Count these jobs in, all of one tenant. Raises LimitExceeded, StoreUnavailable."""
        tenant = self._tenant(caller.tenant)
        counted = tenant.queued_jobs, tenant.unfinished_jobs, tenant.queued_bytes, tenant.stored_bytes
        if any(most is not None for most in counted):
            self._check_counts(tenant, jobs)
        rates = tenant.rates, caller.rates
        tokens = sum(job.cost for job in jobs)
        self._spend("tokens", caller, [rate.tokens_per_minute for rate in rates], tokens, whole=len(jobs) == 1)

    def used(self, tenant: str) -> Used:
        """What a tenant has, as counted within the last seconds. Raises StoreUnavailable."""
        with self._lock:
            return self._counted().used(tenant)

    def _spend(
        self, what: str, caller: Caller, mosts: Sequence[int | None], cost: int, *, whole: bool
    ) -> list[Standing]:
        """A ``whole`` that is more than a minute's worth takes a whole minute; a group is to come in parts."""
        standings: list[Standing] = []
        try:
            for name, counter, most in self._counters_of(what, caller, mosts):
                spent = (whole or cost <= most) and self._counters.spend(counter, most, min(cost, most))
                standings.append(Standing(name, most, self._counters.left(counter, most)))
                if not spent:
                    message = f"{most} {what} in a minute is the limit of this {'key' if '-' in name else 'tenant'}"
                    after_s = _until_there_is(min(cost, most), standings[-1])
                    raise LimitExceeded(message, retry_after_s=after_s, standings=standings)
        except LanesUnavailable:
            return []
        return standings

    @staticmethod
    def _counters_of(what: str, caller: Caller, mosts: Sequence[int | None]) -> Iterator[tuple[str, str, int]]:
        of_tenant, of_key = mosts
        if of_tenant is not None:
            yield what, f"{what}:tenant:{caller.tenant}", of_tenant
        if of_key is not None and caller.key_id is not None:
            yield f"key-{what}", f"{what}:{caller.key_id}", of_key

    def _tenant(self, name: str) -> Tenant:
        if self._clock() >= self._tenants_until:
            # First, so that one thread reads and the others go on with what was read last.
            self._tenants_until = self._clock() + BELIEVED_S
            # That holds while the store is away, too; what needs it says so itself.
            with suppress(StoreUnavailable):
                self._tenants = {tenant.name: tenant for tenant in self._registry.tenants()}
        return self._tenants.get(name) or Tenant(name)

    def _check_counts(self, tenant: Tenant, jobs: Sequence[Job]) -> None:
        more, size = len(jobs), sum(job.size for job in jobs)
        with self._lock:
            count = self._counted()
            had = count.used(tenant.name)
            _refuse_above(tenant.queued_jobs, had.queued_jobs, more, "jobs that wait (queued_jobs)")
            _refuse_above(
                tenant.unfinished_jobs, had.unfinished_jobs, more, "jobs that are not finished (unfinished_jobs)"
            )
            _refuse_above(tenant.queued_bytes, had.queued_bytes, size, "bytes of jobs that wait (queued_bytes)")
            _refuse_above(
                tenant.stored_bytes,
                had.stored_bytes,
                size,
                "bytes of jobs that are kept (stored_bytes)",
                retry_after_s=STORED_RETRY_AFTER_S,
            )
            count.jobs[tenant.name] += more
            count.size[tenant.name] += size

    def _counted(self) -> _Count:
        began = self._clock()
        if began >= self._count.until:
            tenants = {census.tenant: census for census in self._store.tenant_census()}
            now = self._clock()
            self._count = _Count(now + max(COUNTED_S, COUNTING_SHARE * (now - began)), tenants)
        return self._count


def _refuse_above(most: int | None, had: int, more: int, what: str, *, retry_after_s: int = FULL_RETRY_AFTER_S) -> None:
    if most is not None and had + more > most:
        message = f"this tenant may have {most} {what}; it has {had}, and this would add {more}"
        raise LimitExceeded(message, retry_after_s=retry_after_s)


def _until_there_is(cost: int, standing: Standing) -> int:
    """Roughly, whole seconds until so much may be spent."""
    missing = cost - standing.left.remaining
    return min(WINDOW_S, max(standing.left.reset_s, missing * WINDOW_S // standing.most))
