"""When the use of keys is written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ktqueue.errors import StoreUnavailable
from ktqueue.key_use import AT_MOST_EVERY_S, KeyUse
from ktqueue.keys import KeyRequest, Keys
from ktqueue.registry.memory import MemoryRegistry
from ktqueue.tenant import CLIENT_SCOPES
from tests.support.scene import Clock, Outage, around


@dataclass
class Noting:
    """A registry, and a thread that runs when a test lets it."""

    clock: Clock = field(default_factory=Clock)
    threads: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.registry = MemoryRegistry(self.clock.now)
        self.sql = Outage(StoreUnavailable)
        self.use = KeyUse(
            around(lambda: self.registry, self.sql),
            clock=self.clock.monotonic,
            sleep=self.clock.sleep,
            start=self.threads.append,
        )

    def key(self) -> str:
        return Keys(self.registry).create(KeyRequest("a", "", CLIENT_SCOPES))[0].id

    def run(self) -> None:
        self.threads.pop()()

    def used_at(self, key_id: str) -> int | None:
        key = self.registry.key(key_id)
        assert key is not None
        return key.last_used_at


def test_many_keys_are_noted_in_one_write() -> None:
    noting = Noting()
    keys = [noting.key() for _ in range(3)]
    for _ in range(10):
        for key in keys:
            noting.use(key)
    assert len(noting.threads) == 1
    assert noting.used_at(keys[0]) is None, "not on the way of a request"
    noting.run()
    assert noting.sql.calls["used_keys"] == 1
    assert all(noting.used_at(key) is not None for key in keys)


def test_a_key_is_noted_once_a_minute() -> None:
    noting = Noting()
    key = noting.key()
    noting.use(key)
    noting.run()
    first = noting.used_at(key)
    noting.use(key)
    assert not noting.threads
    noting.clock.sleep(AT_MOST_EVERY_S)
    noting.use(key)
    noting.run()
    assert first is not None
    assert (noting.used_at(key) or 0) > first


def test_a_database_that_is_away_stops_nothing() -> None:
    noting = Noting()
    keys = [noting.key() for _ in range(2)]
    noting.sql.go()
    noting.use(keys[0])
    noting.run()
    noting.sql.come_back()
    noting.use(keys[1])
    noting.run()
    assert noting.used_at(keys[0]) is None
    assert noting.used_at(keys[1]) is not None
