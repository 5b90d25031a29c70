"""Who a thing belongs to, who asks for it, and what they may. Values, no I/O."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from types import MappingProxyType

from ktqueue.errors import Invalid

DEFAULT_TENANT = "default"
"""Whose everything is while no keys are asked for."""
NOBODY: Mapping[str, int] = MappingProxyType({})
"""Of numbers by tenant: where there is none of anybody."""
LIGHTEST, HEAVIEST = 0.001, 1_000.0
"""Weights. What a job costs is divided by its tenant's, and far smaller ones would leave no digits for the others'."""
TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class Scope(StrEnum):
    """What a key allows. Those that end in ``admin`` are an operator's: they reach beyond the key's own tenant."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    LANES_READ = "lanes:read"
    LANES_ADMIN = "lanes:admin"
    KEYS_ADMIN = "keys:admin"
    WEBHOOKS_READ = "webhooks:read"
    WEBHOOKS_WRITE = "webhooks:write"
    USAGE_READ = "usage:read"


ALL_SCOPES = frozenset(Scope)
CLIENT_SCOPES = frozenset(scope for scope in Scope if not scope.endswith(":admin"))
"""What a key has if nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that a tenant may have, or a key. None is no limit.

    Tokens are estimated when a job is submitted. ``unfinished_jobs`` counts those that wait and those that run,
    ``queued_bytes`` the input, params and metadata of those that wait, ``stored_bytes`` those of all jobs that are
    kept, and their results. Who has reached ``running_jobs`` is not refused: its jobs wait.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    queued_jobs: int | None = None
    unfinished_jobs: int | None = None
    queued_bytes: int | None = None
    stored_bytes: int | None = None
    running_jobs: int | None = None

    @property
    def counted(self) -> bool:
        """Whether jobs must be counted before one more is let in."""
        counts = self.queued_jobs, self.unfinished_jobs, self.queued_bytes, self.stored_bytes
        return any(most is not None for most in counts)


LIMITS = tuple(field.name for field in fields(Limits))


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose jobs they are: its part of a lane that is short of room is as ``weight`` is to the others'."""

    name: str
    weight: float = 1.0
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: it sees and changes what is ``tenant``'s and nothing else, within its scopes.

    ``key`` is what its jobs are counted as, besides as the tenant's, and ``limits`` hold for those; see `ApiKey`.
    """

    tenant: str = DEFAULT_TENANT
    scopes: frozenset[Scope] = ALL_SCOPES
    key: str | None = None
    limits: Limits = Limits()


def checked_tenant(name: str) -> str:
    """A tenant's name. Raises Invalid."""
    if not TENANT_NAME.fullmatch(name):
        raise Invalid("must be 1-63 of a-z, 0-9 and -, and begin with a letter or a digit", field="tenant")
    return name


def scopes_named(names: Collection[str]) -> frozenset[Scope]:
    """The scopes of these names. Raises Invalid."""
    known = {scope.value for scope in Scope}
    unknown = sorted(set(names) - known)
    if unknown:
        raise Invalid(f"{unknown[0]!r} is no scope; there are: {', '.join(sorted(known))}", field="scopes")
    return frozenset(Scope(name) for name in names)
