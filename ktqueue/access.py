"""Who may ask: from what a request says of its sender to a `Caller`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ktqueue.api_key import NOBODYS, Kept, is_secret, parts_of
from ktqueue.errors import StoreUnavailable, Unauthenticated
from ktqueue.registry.base import ApiKey, Registry
from ktqueue.tenant import Caller

BELIEVED_S = 5.0
"""For how long a process believes what it read of keys: so long one that is revoked elsewhere may still be let in."""
MOST_UNKNOWN = 10_000
"""Unknown prefixes that are remembered. Apart from the known ones, so that whoever makes them up pushes out no key."""
REMEMBERED_S = 300.0
MOST_REMEMBERED = 10_000
"""So many of the keys that were used in that time are read again together: their next request needs no query."""
A_QUERY = 1_000
"""Keys that are read at once."""


class Access(Protocol):
    """Who knows callers."""

    def caller(self, authorization: str | None) -> Caller:
        """Who sends this `Authorization`. Raises Unauthenticated, StoreUnavailable."""


class OpenAccess:
    """Everybody who can reach the service is the default tenant, and may do everything."""

    def caller(self, authorization: str | None) -> Caller:  # noqa: ARG002 - nobody is asked who he is
        """The default tenant."""
        return Caller()


class KeyAccess:
    """Callers are who their keys say. What was read of a key is believed for some seconds, so a request costs no query.

    When they are over, all keys that were used of late are read again at once: a thousand tenants cost one query, not a
    thousand. A process begins with those that any process let in last. ``used`` is told the id of each key that was let
    in.
    """

    def __init__(
        self, registry: Registry, used: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._used = used
        self._clock = clock
        self._known: dict[str, ApiKey] = {}
        self._asked_for: dict[str, float] | None = None
        self._unknown: set[str] = set()
        self._believed_until = 0.0

    def caller(self, authorization: str | None) -> Caller:
        """Who sends this `Authorization`. Raises Unauthenticated, StoreUnavailable."""
        if not authorization:
            raise Unauthenticated("this needs a key: send it as `Authorization: Bearer …`", given=False)
        scheme, _, text = authorization.partition(" ")
        parts = parts_of(text.lstrip(" ")) if scheme.lower() == "bearer" else None
        if parts is None:
            raise Unauthenticated("this is no key; send one as `Authorization: Bearer …`", given=True)
        key = self._found(parts.prefix)
        same = is_secret(parts.secret, NOBODYS if key is None else Kept(key.salt, key.digest))
        # One answer for all of these: it is nobody's business which it was.
        if key is None or not same or not key.valid(self._registry.now()):
            raise Unauthenticated("this key is unknown, revoked or expired", given=True)
        self._used(key.id)
        return Caller(key.tenant, key.scopes, key.counted_as, key.limits)

    def _found(self, prefix: str) -> ApiKey | None:
        now = self._clock()
        if now >= self._believed_until:
            # First, so that one thread reads and the others go on with what was read last.
            self._believed_until = now + BELIEVED_S
            self._read_again(now)
        key = self._known.get(prefix)
        if key is None and prefix not in self._unknown:
            key = self._read([prefix]).get(prefix)
            if key is None:
                self._remember_unknown(prefix)
            else:
                self._known[prefix] = key
        if key is not None and self._asked_for is not None:
            self._asked_for[prefix] = now
        return key

    def _read_again(self, now: float) -> None:
        if self._asked_for is None:
            self._asked_for = dict.fromkeys(self._registry.latest_prefixes(A_QUERY), now)
        of_late = [(at, prefix) for prefix, at in list(self._asked_for.items()) if at > now - REMEMBERED_S]
        latest = sorted(of_late, reverse=True)[:MOST_REMEMBERED]
        self._asked_for = {prefix: at for at, prefix in latest}
        self._unknown = set()
        try:
            self._known = self._read([prefix for _, prefix in latest])
        except StoreUnavailable:
            self._known = {}
            raise

    def _read(self, prefixes: Sequence[str]) -> dict[str, ApiKey]:
        pages = (prefixes[start : start + A_QUERY] for start in range(0, len(prefixes), A_QUERY))
        return {key.prefix: key for page in pages for key in self._registry.keys_by_prefix(page)}

    def _remember_unknown(self, prefix: str) -> None:
        if len(self._unknown) >= MOST_UNKNOWN:
            self._unknown = set()
        self._unknown.add(prefix)


class AccessOnceThereAreKeys:
    """Everybody may do everything until there is a key; from then on, for good, callers are who their keys say."""

    def __init__(self, registry: Registry, keys: Access, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._keys = keys
        self._clock = clock
        self._open = OpenAccess()
        self._open_until: float | None = None
        self._asks = False

    def caller(self, authorization: str | None) -> Caller:
        """Who sends this `Authorization`. Raises Unauthenticated, StoreUnavailable."""
        access: Access = self._keys if self._asks_for_keys() else self._open
        return access.caller(authorization)

    def _asks_for_keys(self) -> bool:
        if self._asks or (self._open_until is not None and self._clock() < self._open_until):
            return self._asks
        try:
            self._asks = self._registry.any_key()
        except StoreUnavailable:
            # While the database is away nobody makes a first key.
            if self._open_until is None:
                raise
        self._open_until = self._clock() + BELIEVED_S
        return self._asks
