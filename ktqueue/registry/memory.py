"""The registry as dictionaries: for unit tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from threading import RLock

from ktqueue.registry.base import ApiKey, KeyQuery
from ktqueue.tenant import Limits, Tenant


class MemoryRegistry:
    """Implements `Registry`; see there. ``clock`` stands for the database's and gives Unix milliseconds."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._lock = RLock()
        self._keys: dict[str, ApiKey] = {}
        self._tenants: dict[str, Tenant] = {}

    def now(self) -> int:
        """What the clock says."""
        return self._clock()

    def any_key(self) -> bool:
        """Whether there ever was a key."""
        return bool(self._keys)

    def add_key(self, key: ApiKey) -> None:
        """Commit a new key."""
        with self._lock:
            self._keys.setdefault(key.id, key)

    def key(self, key_id: str) -> ApiKey | None:
        """The key as it is now."""
        with self._lock:
            return self._keys.get(key_id)

    def keys_by_prefix(self, prefixes: Collection[str]) -> list[ApiKey]:
        """The keys that begin with these."""
        with self._lock:
            return [key for key in self._keys.values() if key.prefix in prefixes]

    def latest_prefixes(self, limit: int) -> list[str]:
        """What those keys begin with, of up to ``limit``, that were used or made last and not revoked."""
        with self._lock:
            valid = [key for key in self._keys.values() if key.revoked_at is None]
        valid.sort(key=lambda key: (key.last_used_at or key.created_at, key.id), reverse=True)
        return [key.prefix for key in valid[:limit]]

    def keys(self, query: KeyQuery) -> list[ApiKey]:
        """Those that match, newest first."""
        with self._lock:
            found = [key for key in self._keys.values() if query.tenant in {None, key.tenant}]
        older = [key for key in found if query.before is None or key.id < query.before]
        return sorted(older, key=lambda key: key.id, reverse=True)[: query.limit]

    def revoke_key(self, key_id: str) -> bool:
        """End a key now, unless it was revoked before; whether there is one."""
        with self._lock:
            key = self._keys.get(key_id)
            if key is not None and key.revoked_at is None:
                self._keys[key_id] = replace(key, revoked_at=self._clock())
        return key is not None

    def replace_key(self, key_id: str, new: ApiKey, until: int) -> bool:
        """Commit a new key beside one that is to end at ``until``, or sooner if it would have."""
        with self._lock:
            old = self._keys.get(key_id)
            if old is None or old.revoked_at is not None:
                return False
            self._keys[key_id] = replace(old, expires_at=min(until, old.expires_at or until))
            self._keys[new.id] = replace(new, limits=old.limits)
        return True

    def limit_key(self, key_id: str, limits: Limits) -> bool:
        """Let these limits hold for a key, and for all that came of the same; whether there is one."""
        with self._lock:
            given = self._keys.get(key_id)
            if given is None:
                return False
            for key in self._keys.values():
                if key.counted_as == given.counted_as:
                    self._keys[key.id] = replace(key, limits=limits)
        return True

    def used_keys(self, ids: Sequence[str]) -> None:
        """Note that these keys are used now."""
        with self._lock:
            for key_id in ids:
                self._keys[key_id] = replace(self._keys[key_id], last_used_at=self._clock())

    def put_tenant(self, tenant: Tenant) -> None:
        """Write down a tenant, new or not."""
        with self._lock:
            self._tenants[tenant.name] = tenant

    def tenant(self, name: str) -> Tenant | None:
        """What is written down of a tenant."""
        with self._lock:
            return self._tenants.get(name)

    def tenants(self) -> list[Tenant]:
        """All that something is written down of, by name."""
        with self._lock:
            return sorted(self._tenants.values(), key=lambda tenant: tenant.name)

    def running_limits(self) -> dict[str, int]:
        """How many jobs may run at once, by tenant and key, of those that are bounded in that."""
        with self._lock:
            limits = {tenant.name: tenant.limits for tenant in self._tenants.values()}
            limits |= {key.counted_as: key.limits for key in self._keys.values()}
        return {owner: each.running_jobs for owner, each in limits.items() if each.running_jobs is not None}
