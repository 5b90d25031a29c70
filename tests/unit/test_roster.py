"""Which models a worker serves, and how its supervisor hears of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktqueue.controls.memory import MemoryControls
from ktqueue.errors import LanesUnavailable, StoreUnavailable
from ktqueue.presence.base import SeenWorker, Worker
from ktqueue.presence.memory import MemoryPresence
from ktqueue.roster import Ear, roster, word_of
from tests.support.scene import Clock, Outage, around
from worker.roster import RosterKeeper

CATALOGUE = ("a", "b", "c")
HEARTBEAT_S = 2.0


@pytest.mark.parametrize(
    ("begun_with", "orders", "served"),
    [
        (["b"], {}, ["b"]),
        (["c", "a"], {}, ["a", "c"]),
        ([], {}, []),
        (["a"], {"a": False, "b": True}, ["b"]),
        (["a"], {"a": True}, ["a"]),
        (["a"], {"unknown": True, "b": False}, ["a"]),
    ],
)
def test_what_was_ordered_comes_before_what_it_was_begun_with(
    begun_with: list[str], orders: dict[str, bool], served: list[str]
) -> None:
    assert roster(CATALOGUE, begun_with, orders) == served


@contextmanager
def listening() -> Iterator[Ear]:
    ear = Ear()
    yield ear
    os.close(ear.mouth)
    os.close(ear._ear)


def test_nothing_is_heard_before_something_was_said() -> None:
    with listening() as ear:
        assert ear.news() is None
        os.write(ear.mouth, word_of(["a"]))
        assert ear.news() == ["a"]
        assert ear.news() is None
        os.write(ear.mouth, word_of([]))
        assert ear.news() == []


@given(st.lists(st.lists(st.sampled_from(CATALOGUE), unique=True), min_size=1, max_size=5), st.integers(0, 40))
def test_the_last_word_counts_whoever_was_killed_in_the_middle_of_another(words: list[list[str]], torn: int) -> None:
    with listening() as ear:
        os.write(ear.mouth, word_of(["a", "b", "c"])[: torn % len(word_of(["a", "b", "c"]))])
        ear.news()
        for word in words:
            os.write(ear.mouth, word_of(word))
        assert ear.news() == words[-1]


def test_a_long_word_is_heard_once_it_is_whole() -> None:
    models = [f"model-{number}" for number in range(1_000)]
    word = word_of(models)
    with listening() as ear:
        os.write(ear.mouth, word[:5_000])
        assert ear.news() is None
        os.write(ear.mouth, word[5_000:])
        assert ear.news() == models


class Keeping:
    """A keeper of the roster of ``gpu-1``, begun with a, over parts that a test takes away."""

    def __init__(self) -> None:
        self.clock, self.sql, self.redis = Clock(), Outage(StoreUnavailable), Outage(LanesUnavailable)
        self.controls, self.presence = MemoryControls(), MemoryPresence(self.clock.now)
        self.told: list[Sequence[str]] = []
        self.keeper = RosterKeeper(
            around(lambda: self.controls, self.sql),
            around(lambda: self.presence, self.redis),
            self.told.append,
            worker="gpu-1",
            host="host",
            catalogue=CATALOGUE,
            begun_with=["a"],
            heartbeat_s=HEARTBEAT_S,
            clock=self.clock.monotonic,
        )

    def seen(self) -> list[SeenWorker]:
        return self.presence.workers()


@pytest.fixture
def keeping() -> Keeping:
    return Keeping()


def test_only_what_has_changed_is_told(keeping: Keeping) -> None:
    for _ in range(3):
        keeping.keeper.look()
    keeping.controls.move("b", source=None, target="gpu-1")
    keeping.controls.move("c", source=None, target="gpu-2")
    for _ in range(3):
        keeping.keeper.look()
    keeping.controls.move("a", source="gpu-1", target="gpu-2")
    keeping.keeper.look()
    assert keeping.told == [["a"], ["a", "b"], ["b"]]


def test_everybody_sees_it_at_once_and_again_with_each_heartbeat(keeping: Keeping) -> None:
    keeping.keeper.look()
    keeping.controls.move("b", source=None, target="gpu-1")
    keeping.keeper.look()
    assert keeping.seen() == [SeenWorker(Worker("gpu-1", "host", ("a", "b"), CATALOGUE), 0)]
    keeping.clock.sleep(HEARTBEAT_S - 0.1)
    keeping.keeper.look()
    assert keeping.seen()[0].age_ms == 1_900
    keeping.clock.sleep(0.1)
    keeping.keeper.look()
    assert keeping.seen()[0].age_ms == 0


def test_before_the_database_answers_nothing_is_served(keeping: Keeping, caplog: pytest.LogCaptureFixture) -> None:
    keeping.sql.go()
    for _ in range(3):
        keeping.keeper.look()
    assert (keeping.told, keeping.seen()) == ([], [])
    assert caplog.text.count("what gpu-1 is to serve can't be read") == 1
    keeping.sql.come_back()
    keeping.keeper.look()
    assert keeping.told == [["a"]]


def test_while_a_part_is_away_the_last_word_holds(keeping: Keeping) -> None:
    keeping.keeper.look()
    keeping.controls.move("a", source="gpu-1", target=None)
    keeping.sql.go()
    keeping.redis.go()
    keeping.clock.sleep(HEARTBEAT_S)
    keeping.keeper.look()
    assert keeping.told == [["a"]]
    keeping.sql.come_back()
    keeping.keeper.look()
    keeping.redis.come_back()
    keeping.clock.sleep(HEARTBEAT_S)
    keeping.keeper.look()
    assert keeping.told == [["a"], []]
    assert [seen.worker.models for seen in keeping.seen()] == [()]
