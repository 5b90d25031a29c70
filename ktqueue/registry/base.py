"""The registry: API keys and tenants.

As in the store, every method is one transaction and may raise StoreUnavailable.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from ktqueue.tenant import Limits, Scope, Tenant


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key: never its secret, only ``digest``, a hash of it salted with ``salt`` (both in hex).

    Its row is found by ``prefix``, which everybody may see. Instants in Unix milliseconds. Rows stay when a key has
    ended. ``origin`` is the id of the key that it came of by rotation, once or more often; all that came of one have
    the same limits, and share what they bound.
    """

    id: str
    prefix: str
    tenant: str
    name: str
    scopes: frozenset[Scope]
    salt: str
    digest: str
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None
    origin: str | None = None
    limits: Limits = Limits()  # noqa: RUF009 - frozen, so sharing it is safe

    @property
    def counted_as(self) -> str:
        """The id by which its jobs, and its requests, are counted."""
        return self.origin or self.id

    def valid(self, now: int) -> bool:
        """Whether it still opens anything."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """Which keys to list, newest first. ``before`` is the last id of the page before; no ``tenant`` is all."""

    tenant: str | None = None
    before: str | None = None
    limit: int = 50


class Registry(Protocol):
    """Durable keys and tenants."""

    def now(self) -> int:
        """The database's clock."""

    def any_key(self) -> bool:
        """Whether there ever was a key."""

    def add_key(self, key: ApiKey) -> None:
        """Commit a new key."""

    def key(self, key_id: str) -> ApiKey | None:
        """The key as it is now."""

    def keys_by_prefix(self, prefixes: Collection[str]) -> list[ApiKey]:
        """The keys that begin with these."""

    def latest_prefixes(self, limit: int) -> list[str]:
        """What those keys begin with, of up to ``limit``, that were used or made last and not revoked."""

    def keys(self, query: KeyQuery) -> list[ApiKey]:
        """Those that match, newest first."""

    def revoke_key(self, key_id: str) -> bool:
        """End a key now, unless it was revoked before; whether there is one."""

    def replace_key(self, key_id: str, new: ApiKey, until: int) -> bool:
        """Commit a new key beside one that is to end at ``until``, or sooner if it would have.

        The new one has the limits that the old one has by then. Whether there is one that was not revoked.
        """

    def limit_key(self, key_id: str, limits: Limits) -> bool:
        """Let these limits hold for a key, and for all that came of the same; whether there is one."""

    def used_keys(self, ids: Sequence[str]) -> None:
        """Note that these keys are used now."""

    def put_tenant(self, tenant: Tenant) -> None:
        """Write down a tenant, new or not."""

    def tenant(self, name: str) -> Tenant | None:
        """What is written down of a tenant; None if nothing is."""

    def tenants(self) -> list[Tenant]:
        """All that something is written down of, by name."""

    def running_limits(self) -> dict[str, int]:
        """How many jobs may run at once, by tenant and key (`counted_as`), of those that are bounded in that."""
