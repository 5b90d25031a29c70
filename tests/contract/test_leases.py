"""What every implementation of Leases must do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ktqueue.leases.base import Leases, Taken
from ktqueue.leases.memory import MemoryLeases
from ktqueue.leases.sql import SqlLeases
from tests.contract.conftest import URLS
from tests.support.stack import until

LONG_MS = 600_000


@pytest.fixture(params=["memory", *URLS])
def leases(request: pytest.FixtureRequest) -> Iterator[Leases]:
    if request.param == "memory":
        yield MemoryLeases()
        return
    made = SqlLeases(request.getfixturevalue(URLS[request.param]))
    yield made
    made.close()


def test_what_is_free_is_taken_kept_and_nobody_elses(leases: Leases) -> None:
    assert leases.take(["a", "b"], "one", for_ms=LONG_MS) == {"a": Taken.FREE, "b": Taken.FREE}
    assert leases.take(["a", "b", "c"], "two", for_ms=LONG_MS) == {"c": Taken.FREE}
    assert leases.take(["b", "a", "c"], "one", for_ms=LONG_MS) == {"a": Taken.KEPT, "b": Taken.KEPT}


def test_what_was_released_is_free_at_once(leases: Leases) -> None:
    leases.take(["a", "b"], "one", for_ms=LONG_MS)
    leases.release(["a"], "two")
    assert leases.take(["a"], "two", for_ms=LONG_MS) == {}
    leases.release(["a"], "one")
    leases.release(["a"], "one")
    assert leases.take(["a", "b"], "two", for_ms=LONG_MS) == {"a": Taken.FREE}


def test_what_ran_out_is_anybodys_and_told_as_left(leases: Leases) -> None:
    leases.take(["a", "b"], "one", for_ms=1)
    time.sleep(0.01)
    assert leases.take(["a"], "two", for_ms=LONG_MS) == {"a": Taken.LEFT}
    assert leases.take(["a", "b"], "one", for_ms=LONG_MS) == {"b": Taken.LEFT}


def test_a_renewed_lease_lasts_from_the_renewal(leases: Leases) -> None:
    leases.take(["a"], "one", for_ms=1)
    time.sleep(0.01)
    leases.take(["a"], "one", for_ms=LONG_MS)
    assert leases.take(["a"], "one", for_ms=300) == {"a": Taken.KEPT}
    assert leases.take(["a"], "two", for_ms=LONG_MS) == {}
    until(lambda: leases.take(["a"], "two", for_ms=LONG_MS), "the end of a lease")


def test_of_many_who_ask_at_once_one_gets_it(leases: Leases) -> None:
    names = ["a", "b", "c"]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda who: leases.take(names, f"h{who}", for_ms=LONG_MS), range(8)))
    assert sorted(name for answer in answers for name in answer) == names
