"""What a tenant, and a key, may spend: requests and tokens in a minute, jobs that are not finished, bytes of jobs.

A limit is a limit, whoever's it is. Rates are counted in Redis; while it is away nothing is refused for them. The rest
is counted in the store, as `ktqueue.counted` has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from ktqueue.counted import Counted, Used
from ktqueue.errors import LanesUnavailable, LimitExceeded, StoreUnavailable
from ktqueue.job import Job
from ktqueue.rates.base import WINDOW_S, Left, RateCounters
from ktqueue.registry.base import Registry
from ktqueue.store.base import Store
from ktqueue.tenant import Caller, Limits, Tenant

BELIEVED_S = 2.0
"""How long limits that were read are believed, and so how soon a change of them acts."""
FULL_RETRY_AFTER_S = 5
STORED_RETRY_AFTER_S = 60
"""What ended goes when it is deleted, by its tenant or past its retention, which is looked for about so often."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a limit stands: ``most`` of what is ``named`` in a minute."""

    name: str
    most: int
    left: Left


class _Bound(NamedTuple):
    """The limits of a tenant, or of a key, and where it is counted what that has. Rates have ``prefix`` before them."""

    kind: str
    name: str
    limits: Limits
    counted: Counted
    spender: str
    prefix: str


class Quotas:
    """The limits of all tenants and keys, as one process keeps them. Thread-safe."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        counters: RateCounters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._counters = counters
        self._clock = clock
        self._tenants: Mapping[str, Tenant] = {}
        self._tenants_until = 0.0
        self._of_tenants = Counted(store.tenant_census, clock)
        self._of_keys = Counted(store.key_census, clock)
        self._lock = Lock()

    def request(self, caller: Caller) -> list[Standing]:
        """Count a request; how the limits on requests stand then. Raises LimitExceeded."""
        bounds = [(bound, bound.limits.requests_per_minute) for bound in self._bounds(caller)]
        return self._spend("requests", bounds, 1, whole=True)

    def admit(self, jobs: Sequence[Job], caller: Caller) -> None:
        """Count these jobs in, all of one caller. Raises LimitExceeded, StoreUnavailable."""
        bounds = self._bounds(caller)
        counted = [bound for bound in bounds if bound.limits.counted]
        if counted:
            self._count(counted, len(jobs), sum(job.size for job in jobs))
        tokens = [(bound, bound.limits.tokens_per_minute) for bound in bounds]
        self._spend("tokens", tokens, sum(job.cost for job in jobs), whole=len(jobs) == 1)

    def used(self, tenant: str) -> Used:
        """What a tenant has, as counted within the last seconds. Raises StoreUnavailable."""
        with self._lock:
            return self._of_tenants.used(tenant)

    def used_by_key(self, counted_as: str) -> Used:
        """The same of a key, and of all that are counted with it."""
        with self._lock:
            return self._of_keys.used(counted_as)

    def _bounds(self, caller: Caller) -> list[_Bound]:
        tenant = caller.tenant
        bounds = [
            _Bound("tenant", tenant, self._tenant(tenant).limits, self._of_tenants, f"tenant:{tenant}", prefix="")
        ]
        if caller.key is not None:
            bounds.append(_Bound("key", caller.key, caller.limits, self._of_keys, caller.key, prefix="key-"))
        return bounds

    def _spend(
        self, what: str, bounds: Sequence[tuple[_Bound, int | None]], cost: int, *, whole: bool
    ) -> list[Standing]:
        """A ``whole`` that is more than a minute's worth takes a whole minute; a group is to come in parts."""
        standings: list[Standing] = []
        try:
            for bound, most in bounds:
                if most is None:
                    continue
                counter = f"{what}:{bound.spender}"
                spent = (whole or cost <= most) and self._counters.spend(counter, most, min(cost, most))
                standings.append(Standing(bound.prefix + what, most, self._counters.left(counter, most)))
                if not spent:
                    message = f"{most} {what} in a minute is the limit of this {bound.kind}"
                    after_s = _until_there_is(min(cost, most), standings[-1])
                    raise LimitExceeded(message, retry_after_s=after_s, standings=standings)
        except LanesUnavailable:
            return []
        return standings

    def _tenant(self, name: str) -> Tenant:
        if self._clock() >= self._tenants_until:
            # First, so that one thread reads and the others go on with what was read last.
            self._tenants_until = self._clock() + BELIEVED_S
            # That holds while the store is away, too; what needs it says so itself.
            with suppress(StoreUnavailable):
                self._tenants = {tenant.name: tenant for tenant in self._registry.tenants()}
        return self._tenants.get(name) or Tenant(name)

    def _count(self, bounds: Sequence[_Bound], jobs: int, size: int) -> None:
        with self._lock:
            for bound in bounds:
                _refuse_above(bound, bound.counted.used(bound.name), jobs, size)
            for bound in bounds:
                bound.counted.let_in(bound.name, jobs, size)


def _refuse_above(bound: _Bound, had: Used, jobs: int, size: int) -> None:
    """Raises LimitExceeded if so many more jobs, of so many bytes, would be too many."""
    limits, short, long = bound.limits, FULL_RETRY_AFTER_S, STORED_RETRY_AFTER_S
    checks = (
        (limits.queued_jobs, had.queued_jobs, jobs, short, "jobs that wait (queued_jobs)"),
        (limits.unfinished_jobs, had.unfinished_jobs, jobs, short, "jobs that are not finished (unfinished_jobs)"),
        (limits.queued_bytes, had.queued_bytes, size, short, "bytes of jobs that wait (queued_bytes)"),
        (limits.stored_bytes, had.stored_bytes, size, long, "bytes of jobs that are kept (stored_bytes)"),
    )
    for most, has, more, retry_after_s, what in checks:
        if most is not None and has + more > most:
            message = f"this {bound.kind} may have {most} {what}; it has {has}, and this would add {more}"
            raise LimitExceeded(message, retry_after_s=retry_after_s)


def _until_there_is(cost: int, standing: Standing) -> int:
    """Roughly, whole seconds until so much may be spent."""
    missing = cost - standing.left.remaining
    return min(WINDOW_S, max(standing.left.reset_s, missing * WINDOW_S // standing.most))
