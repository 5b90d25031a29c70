"""Counters of a minute, in memory and in a real Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktqueue.errors import LanesUnavailable
from ktqueue.job import uuid7_hex
from ktqueue.rates.base import WINDOW_S, RateCounters
from ktqueue.rates.counted import in_memory, in_redis
from ktqueue.redis_client import connect


@pytest.fixture(params=["memory", "redis"])
def counters(request: pytest.FixtureRequest) -> Iterator[RateCounters]:
    if request.param == "memory":
        yield in_memory()
        return
    client = connect(request.getfixturevalue("redis_url"))
    yield in_redis(client)
    client.close()


def test_what_is_there_can_be_spent_and_no_more(counters: RateCounters) -> None:
    assert counters.left("a", 10).remaining == 10
    assert counters.spend("a", 10, 7)
    assert not counters.spend("a", 10, 4)
    assert counters.spend("a", 10, 3)
    left = counters.left("a", 10)
    assert left.remaining == 0
    assert 1 <= left.reset_s <= WINDOW_S
    assert counters.spend("b", 10, 10), "another's"


def test_another_limit_counts_what_was_spent(counters: RateCounters) -> None:
    assert counters.spend("a", 10, 8)
    assert counters.left("a", 5).remaining == 0
    assert not counters.spend("a", 5, 1)
    assert counters.left("a", 100).remaining == 92
    assert counters.spend("a", 100, 92)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(most=st.integers(1, 50), costs=st.lists(st.integers(1, 60), max_size=20))
def test_within_a_minute_never_more_is_spent_than_there_is(counters: RateCounters, most: int, costs: list[int]) -> None:
    name = uuid7_hex()
    assert sum(cost for cost in costs if counters.spend(name, most, cost)) <= most


def test_without_redis_nobody_knows() -> None:
    client = connect("unix:///nowhere/at/all")
    away = in_redis(client)
    with pytest.raises(LanesUnavailable):
        away.spend("a", 1, 1)
    with pytest.raises(LanesUnavailable):
        away.left("a", 1)
    client.close()
