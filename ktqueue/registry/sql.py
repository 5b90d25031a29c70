"""The registry on SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from ktqueue.registry.base import ApiKey, KeyQuery
from ktqueue.sql.clock import Clock, db_now
from ktqueue.sql.database import Database
from ktqueue.sql.dialects import among, insert_new
from ktqueue.sql.tables import api_keys, tenants
from ktqueue.tenant import LIMITS, Limits, Scope, Tenant

_this_key = api_keys.c.id == sa.bindparam("key_id")
_this_tenant = tenants.c.name == sa.bindparam("tenant_name")

NOW = sa.select(db_now())
ANY_KEY = sa.select(api_keys.c.id).limit(1)
ADD_KEY = insert_new(api_keys)
KEY = sa.select(api_keys).where(_this_key)
KEYS_BY_PREFIX = sa.select(api_keys).where(among(api_keys.c.prefix, "prefixes"))
LATEST_PREFIXES = (
    sa.select(api_keys.c.prefix)
    .where(api_keys.c.revoked_at.is_(None))
    .order_by(sa.func.coalesce(api_keys.c.last_used_at, api_keys.c.created_at).desc(), api_keys.c.id.desc())
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_KEY_COLUMNS = [column.name for column in api_keys.c]
REVOKE_KEY = sa.update(api_keys).where(_this_key).values(revoked_at=sa.func.coalesce(api_keys.c.revoked_at, db_now()))
_until = sa.bindparam("until", type_=sa.BigInteger)
END_KEY = (
    sa.update(api_keys)
    .where(_this_key, api_keys.c.revoked_at.is_(None))
    .values(expires_at=sa.case((api_keys.c.expires_at < _until, api_keys.c.expires_at), else_=_until))
)
_counted_as = sa.func.coalesce(api_keys.c.origin, api_keys.c.id)
COUNTED_AS = sa.select(_counted_as).where(_this_key)
# Of keys that came of one, who replaces one or limits them all has the first: what is new is then seen by the next.
HOLD_ORIGIN = sa.select(api_keys.c.id).where(api_keys.c.id == sa.bindparam("origin_id")).with_for_update()
LIMIT_KEYS = (
    sa.update(api_keys)
    .where(_counted_as == sa.bindparam("origin_id"))
    .values({name: sa.bindparam(f"new_{name}") for name in LIMITS})
)
USED_KEYS = sa.update(api_keys).where(among(api_keys.c.id)).values(last_used_at=db_now())
TENANT = sa.select(tenants).where(_this_tenant)
TENANTS = sa.select(tenants).order_by(tenants.c.name)
RUNNING_LIMITS = sa.union_all(
    sa.select(tenants.c.name.label("owner"), tenants.c.running_jobs).where(tenants.c.running_jobs.is_not(None)),
    sa.select(_counted_as, api_keys.c.running_jobs).where(api_keys.c.running_jobs.is_not(None)),
)
ADD_TENANT = insert_new(tenants)
CHANGE_TENANT = (
    sa.update(tenants)
    .where(_this_tenant)
    .values({column.name: sa.bindparam(f"new_{column.name}") for column in tenants.c if not column.primary_key})
)


class SqlRegistry:
    """Implements `Registry`; see there."""

    def __init__(self, url: str) -> None:
        """``url`` is SQLAlchemy's, as of `SqlStore`. Make it after a fork."""
        self._database = Database(url)
        self._clock = Clock(self._read_clock)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._database.close()

    def now(self) -> int:
        """The database's clock, extrapolated for some seconds."""
        return self._clock.now()

    def _read_clock(self) -> int:
        with self._database.reader() as connection:
            return int(connection.execute(NOW).scalar_one())

    def any_key(self) -> bool:
        """Whether there ever was a key."""
        with self._database.reader() as connection:
            return connection.execute(ANY_KEY).first() is not None

    def add_key(self, key: ApiKey) -> None:
        """Commit a new key."""
        with self._database.writer() as connection:
            connection.execute(ADD_KEY, _row_of_key(key))

    def key(self, key_id: str) -> ApiKey | None:
        """The key as it is now."""
        with self._database.reader() as connection:
            row = connection.execute(KEY, {"key_id": key_id}).mappings().one_or_none()
        return None if row is None else _key_of(row)

    def keys_by_prefix(self, prefixes: Collection[str]) -> list[ApiKey]:
        """The keys that begin with these."""
        with self._database.reader() as connection:
            rows = connection.execute(KEYS_BY_PREFIX, {"prefixes": list(prefixes)}).all()
        return [_known_key_of(tuple(row)) for row in rows]

    def latest_prefixes(self, limit: int) -> list[str]:
        """What those keys begin with, of up to ``limit``, that were used or made last and not revoked."""
        with self._database.reader() as connection:
            return list(connection.execute(LATEST_PREFIXES, {"most": limit}).scalars())

    def keys(self, query: KeyQuery) -> list[ApiKey]:
        """Those that match, newest first."""
        statement = sa.select(api_keys).order_by(api_keys.c.id.desc()).limit(query.limit)
        if query.tenant is not None:
            statement = statement.where(api_keys.c.tenant == query.tenant)
        if query.before is not None:
            statement = statement.where(api_keys.c.id < query.before)
        with self._database.reader() as connection:
            return [_key_of(row) for row in connection.execute(statement).mappings()]

    def revoke_key(self, key_id: str) -> bool:
        """End a key now, unless it was revoked before; whether there is one."""
        with self._database.writer() as connection:
            return connection.execute(REVOKE_KEY, {"key_id": key_id}).rowcount == 1

    def replace_key(self, key_id: str, new: ApiKey, until: int) -> bool:
        """Commit a new key beside one that is to end at ``until``, or sooner if it would have."""
        with self._database.transaction() as connection:
            origin = connection.execute(COUNTED_AS, {"key_id": key_id}).scalar_one_or_none()
            connection.execute(HOLD_ORIGIN, {"origin_id": origin})
            if not connection.execute(END_KEY, {"key_id": key_id, "until": until}).rowcount:
                return False
            old = _key_of(connection.execute(KEY, {"key_id": key_id}).mappings().one())
            connection.execute(ADD_KEY, _row_of_key(replace(new, limits=old.limits)))
        return True

    def limit_key(self, key_id: str, limits: Limits) -> bool:
        """Let these limits hold for a key, and for all that came of the same; whether there is one."""
        changed = {f"new_{name}": value for name, value in asdict(limits).items()}
        with self._database.transaction() as connection:
            origin = connection.execute(COUNTED_AS, {"key_id": key_id}).scalar_one_or_none()
            if origin is not None:
                connection.execute(HOLD_ORIGIN, {"origin_id": origin})
                connection.execute(LIMIT_KEYS, changed | {"origin_id": origin})
        return origin is not None

    def used_keys(self, ids: Sequence[str]) -> None:
        """Note that these keys are used now."""
        with self._database.writer() as connection:
            connection.execute(USED_KEYS, {"ids": list(ids)})

    def put_tenant(self, tenant: Tenant) -> None:
        """Write down a tenant, new or not."""
        row = _row_of_tenant(tenant)
        changed = {f"new_{name}": value for name, value in row.items() if name != "name"}
        with self._database.transaction() as connection:
            connection.execute(ADD_TENANT, row)
            connection.execute(CHANGE_TENANT, changed | {"tenant_name": tenant.name})

    def tenant(self, name: str) -> Tenant | None:
        """What is written down of a tenant."""
        with self._database.reader() as connection:
            row = connection.execute(TENANT, {"tenant_name": name}).mappings().one_or_none()
        return None if row is None else _tenant_of(row)

    def tenants(self) -> list[Tenant]:
        """All that something is written down of, by name."""
        with self._database.reader() as connection:
            return [_tenant_of(row) for row in connection.execute(TENANTS).mappings()]

    def running_limits(self) -> dict[str, int]:
        """How many jobs may run at once, by tenant and key, of those that are bounded in that."""
        with self._database.reader() as connection:
            return {row.owner: row.running_jobs for row in connection.execute(RUNNING_LIMITS)}


def _row_of_key(key: ApiKey) -> dict[str, Any]:
    return _with_limits_apart(asdict(key)) | {"scopes": " ".join(sorted(key.scopes))}


def _key_of(row: sa.RowMapping | dict[str, Any]) -> ApiKey:
    values = dict(row)
    scopes = frozenset(Scope(name) for name in values.pop("scopes").split())
    return ApiKey(**_with_limits(values), scopes=scopes)


@lru_cache(maxsize=4096)
def _known_key_of(values: tuple[Any, ...]) -> ApiKey:
    """A process reads the keys that it is shown again every few seconds, and hardly any has changed."""
    return _key_of(dict(zip(_KEY_COLUMNS, values, strict=True)))


def _row_of_tenant(tenant: Tenant) -> dict[str, Any]:
    return _with_limits_apart(asdict(tenant))


def _tenant_of(row: sa.RowMapping) -> Tenant:
    return Tenant(**_with_limits(dict(row)))


def _with_limits(row: dict[str, Any]) -> dict[str, Any]:
    limits = Limits(**{name: row.pop(name) for name in LIMITS})
    return row | {"limits": limits}


def _with_limits_apart(values: dict[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = values.pop("limits")
    return values | limits
