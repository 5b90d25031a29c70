"""Keys and tenants, over every implementation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from ktqueue.job import uuid7_hex
from ktqueue.registry.base import ApiKey, KeyQuery, Registry
from ktqueue.registry.memory import MemoryRegistry
from ktqueue.registry.sql import SqlRegistry
from ktqueue.tenant import ALL_SCOPES, Limits, Scope, Tenant
from tests.contract.conftest import URLS


@pytest.fixture(params=["memory", *URLS])
def registry(request: pytest.FixtureRequest) -> Iterator[Registry]:
    if request.param == "memory":
        yield MemoryRegistry(lambda: time.time_ns() // 1_000_000)
        return
    made = SqlRegistry(request.getfixturevalue(URLS[request.param]))
    yield made
    made.close()


def key(registry: Registry, **given: Any) -> ApiKey:
    """A key that was added."""
    identity = uuid7_hex()
    made = ApiKey(
        id=f"key_{identity}",
        prefix=identity[-12:],
        tenant="a",
        name="n",
        scopes=frozenset({Scope.JOBS_READ}),
        salt="00",
        digest="11",
        created_at=registry.now(),
    )
    made = replace(made, **given)
    registry.add_key(made)
    return made


def test_a_key_is_kept_as_it_is(registry: Registry) -> None:
    assert not registry.any_key()
    made = key(registry, scopes=ALL_SCOPES, expires_at=5, limits=Limits(3, 10**12, 4, 5, 10**13, 6, 7))
    assert registry.any_key()
    assert [registry.key(made.id)] == registry.keys_by_prefix([made.prefix, "nobody"]) == [made]
    assert registry.key("key_nobody") is None
    assert registry.keys_by_prefix(["nobody"]) == []
    assert registry.key(key(registry, scopes=frozenset()).id) is not None


def test_the_latest_keys_are_those_used_or_made_last(registry: Registry) -> None:
    made = [key(registry, prefix=f"prefix-{number}") for number in range(4)]
    assert registry.latest_prefixes(9) == ["prefix-3", "prefix-2", "prefix-1", "prefix-0"]
    registry.used_keys([made[1].id])
    registry.revoke_key(made[2].id)
    assert sorted(registry.latest_prefixes(9)) == ["prefix-0", "prefix-1", "prefix-3"]
    assert len(registry.latest_prefixes(2)) == 2


def test_keys_are_listed_newest_first_and_page_by_page(registry: Registry) -> None:
    made = [key(registry, tenant=tenant) for tenant in "abab"]
    assert registry.keys(KeyQuery()) == made[::-1]
    assert registry.keys(KeyQuery(tenant="a")) == [made[2], made[0]]
    assert registry.keys(KeyQuery(before=made[2].id, limit=1)) == [made[1]]
    assert registry.keys(KeyQuery(tenant="nobody")) == []


def test_a_key_is_revoked_once(registry: Registry) -> None:
    made, other = key(registry), key(registry)
    assert registry.revoke_key(made.id)
    revoked = registry.key(made.id)
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert revoked.revoked_at >= made.created_at
    assert not revoked.valid(registry.now())
    assert registry.revoke_key(made.id)
    assert registry.key(made.id) == revoked
    assert registry.key(other.id) == other
    assert not registry.revoke_key("key_nobody")


@pytest.mark.parametrize(("expires_at", "then"), [(None, 1_000), (2_000, 1_000), (500, 500)])
def test_a_key_that_is_replaced_ends_no_later_than_it_would(
    registry: Registry, expires_at: int | None, then: int
) -> None:
    old = key(registry, expires_at=expires_at)
    new = replace(old, id=f"key_{uuid7_hex()}", prefix="another")
    assert registry.replace_key(old.id, new, 1_000)
    assert registry.key(old.id) == replace(old, expires_at=then)
    assert registry.key(new.id) == new
    assert not registry.replace_key("key_nobody", replace(new, id="key_2", prefix="p2"), 1_000)
    assert registry.key("key_2") is None


def test_a_key_that_was_revoked_meanwhile_is_not_replaced(registry: Registry) -> None:
    old = key(registry)
    registry.revoke_key(old.id)
    revoked = registry.key(old.id)
    new = replace(old, id=f"key_{uuid7_hex()}", prefix="another")
    assert not registry.replace_key(old.id, new, 1_000)
    assert (registry.key(old.id), registry.key(new.id)) == (revoked, None)


def test_a_new_key_has_the_limits_that_hold_by_then(registry: Registry) -> None:
    old = key(registry, limits=Limits(queued_jobs=5))
    registry.limit_key(old.id, Limits(queued_jobs=6))
    new = replace(old, id=f"key_{uuid7_hex()}", prefix="another", origin=old.id)
    assert registry.replace_key(old.id, new, 1_000)
    assert registry.key(new.id) == replace(new, limits=Limits(queued_jobs=6))


def test_keys_that_are_replaced_while_they_are_limited_are_alike(registry: Registry) -> None:
    first = key(registry)

    def replaced(number: int) -> None:
        new = replace(first, id=f"key_{uuid7_hex()}", prefix=f"p{number}", origin=first.id)
        assert registry.replace_key(first.id, new, 10**15)

    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            limits = Limits(queued_jobs=number + 1)
            limited = pool.submit(registry.limit_key, first.id, limits)
            made = pool.submit(replaced, number)
            assert limited.result()
            made.result()
            assert {found.limits for found in registry.keys(KeyQuery())} == {limits}


def test_all_keys_that_came_of_one_are_limited_together(registry: Registry) -> None:
    first, other = key(registry), key(registry)
    second = replace(first, id=f"key_{uuid7_hex()}", prefix="p2", origin=first.id)
    third = replace(second, id=f"key_{uuid7_hex()}", prefix="p3")
    registry.replace_key(first.id, second, 1_000)
    registry.replace_key(second.id, third, 1_000)
    for number, each in enumerate((first, second, third)):
        limits = Limits(queued_jobs=number + 1, stored_bytes=7)
        assert registry.limit_key(each.id, limits)
        assert {found.limits for found in registry.keys(KeyQuery()) if found.counted_as == first.id} == {limits}
    assert registry.key(other.id) == other
    assert not registry.limit_key("key_nobody", Limits(1))


def test_how_many_of_a_key_may_run_is_told_beside_tenants(registry: Registry) -> None:
    first = key(registry, limits=Limits(running_jobs=3))
    second = replace(first, id=f"key_{uuid7_hex()}", prefix="p2", origin=first.id)
    registry.replace_key(first.id, second, 1_000)
    registry.revoke_key(first.id)
    key(registry, limits=Limits(queued_jobs=3))
    registry.put_tenant(Tenant("a", limits=Limits(running_jobs=5)))
    assert registry.running_limits() == {"a": 5, first.id: 3}
    registry.limit_key(second.id, Limits())
    assert registry.running_limits() == {"a": 5}


def test_use_is_noted(registry: Registry) -> None:
    used, other = key(registry), key(registry)
    registry.used_keys([used.id])
    noted = registry.key(used.id)
    assert noted is not None
    assert noted.last_used_at is not None
    assert noted.last_used_at >= used.created_at
    assert registry.key(other.id) == other


def test_tenants_are_written_down_and_changed(registry: Registry) -> None:
    assert registry.tenant("a") is None
    b = Tenant("b", weight=2.5, limits=Limits(1, 2, 3, 4, 10**13, 10**14, 5))
    registry.put_tenant(b)
    registry.put_tenant(Tenant("a"))
    assert registry.tenants() == [Tenant("a"), b]
    assert registry.running_limits() == {"b": 5}
    changed = Tenant("b", weight=0.5)
    registry.put_tenant(changed)
    assert registry.tenant("b") == changed
    assert registry.tenants() == [Tenant("a"), changed]
    assert registry.running_limits() == {}
