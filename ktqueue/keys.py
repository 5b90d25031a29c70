"""What operators may do with keys and tenants: make, look, revoke, rotate; weights and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ktqueue.api_key import kept_of, new_parts
from ktqueue.errors import Conflict, Invalid, NotFound
from ktqueue.job import uuid7_hex
from ktqueue.registry.base import ApiKey, KeyQuery, Registry
from ktqueue.tenant import Limits, Scope, Tenant, checked_tenant

OVERLAP_S = 86_400
"""How long a key that was rotated stays valid if nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """What a new key is to be. ``expires_at`` in Unix milliseconds; None is never."""

    tenant: str
    name: str
    scopes: frozenset[Scope]
    expires_at: int | None = None
    limits: Limits = Limits()  # noqa: RUF009 - frozen, so sharing it is safe


class Keys:
    """The use cases. A key's text is given once, when it is made; it is kept nowhere."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def now(self) -> int:
        """The database's clock."""
        return self._registry.now()

    def create(self, asked: KeyRequest) -> tuple[ApiKey, str]:
        """A new key, and its text. Raises Invalid."""
        now = self._registry.now()
        if asked.expires_at is not None and asked.expires_at <= now:
            raise Invalid("must be in the future", field="expires_at")
        key, text = _made(asked, now)
        self._registry.add_key(key)
        return key, text

    def get(self, key_id: str) -> ApiKey:
        """The key as it is now. Raises NotFound."""
        key = self._registry.key(key_id)
        if key is None:
            raise NotFound(f"there is no key {key_id}")
        return key

    def search(self, query: KeyQuery) -> Sequence[ApiKey]:
        """Those that match, newest first, the ended ones too."""
        return self._registry.keys(query)

    def revoke(self, key_id: str) -> ApiKey:
        """End a key; one that was revoked stays as it is. Raises NotFound."""
        self._registry.revoke_key(key_id)
        return self.get(key_id)

    def rotate(self, key_id: str, overlap_s: int = OVERLAP_S) -> tuple[ApiKey, str]:
        """A new key that is like this one, which ends in ``overlap_s``. Raises NotFound; Conflict if it has ended.

        What is counted of the old one is counted of the new one, too.
        """
        old, now = self.get(key_id), self._registry.now()
        if not old.valid(now):
            raise Conflict(f"{key_id} has ended; make a new key")
        new, text = _made(KeyRequest(old.tenant, old.name, old.scopes, old.expires_at, old.limits), now, old.counted_as)
        if not self._registry.replace_key(key_id, new, now + overlap_s * 1000):
            raise Conflict(f"{key_id} has ended; make a new key")
        return new, text

    def limit(self, key_id: str, limits: Limits) -> ApiKey:
        """Let these limits hold for a key from now on, and for what it was rotated to. Raises NotFound."""
        self._registry.limit_key(key_id, limits)
        return self.get(key_id)

    def tenant(self, name: str) -> Tenant:
        """What holds for a tenant; nobody has to be written down to be one. Raises Invalid."""
        return self._registry.tenant(checked_tenant(name)) or Tenant(name)

    def tenants(self) -> Sequence[Tenant]:
        """All that something is written down of, by name."""
        return self._registry.tenants()

    def put_tenant(self, tenant: Tenant) -> Tenant:
        """Let this hold for a tenant from now on. Raises Invalid."""
        checked_tenant(tenant.name)
        self._registry.put_tenant(tenant)
        return tenant


def _made(asked: KeyRequest, now: int, origin: str | None = None) -> tuple[ApiKey, str]:
    parts = new_parts()
    kept = kept_of(parts.secret)
    key = ApiKey(
        id=f"key_{uuid7_hex()}",
        prefix=parts.prefix,
        tenant=checked_tenant(asked.tenant),
        name=asked.name,
        scopes=asked.scopes,
        salt=kept.salt,
        digest=kept.digest,
        created_at=now,
        expires_at=asked.expires_at,
        origin=origin,
        limits=asked.limits,
    )
    return key, str(parts)
