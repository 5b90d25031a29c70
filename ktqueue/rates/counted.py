"""Rates by the sliding-window counters of the package `limits`: of two minutes, the older weighs what is left of it.

So a counter is two numbers, however many requests it counts, and lets through at most a little more than it should.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from limits.storage import MemoryStorage, RedisStorage

from ktqueue.rates.base import WINDOW_S, Left
from ktqueue.redis_client import Client

KEYS = "ktq:rate"


class _Storage(Protocol):
    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count ``amount`` if there is room for it."""

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """The minute before, in how many seconds it is forgotten; this minute, and in how many."""


class Counted:
    """Implements `RateCounters`; see there. A limit is no part of a counter's name, so a new one counts what was."""

    def __init__(self, storage: _Storage, served: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._storage = storage
        self._served = served

    def spend(self, name: str, most: int, cost: int) -> bool:
        """Spend ``cost`` of ``most`` in a minute, or nothing; whether it was spent."""
        with self._served():
            return self._storage.acquire_sliding_window_entry(f"{{{name}}}", most, WINDOW_S, cost)

    def left(self, name: str, most: int) -> Left:
        """What is left of ``most``."""
        with self._served():
            before, forgotten_s, now, ends_s = self._storage.get_sliding_window(f"{{{name}}}", WINDOW_S)
        spent = math.floor(before * max(0.0, forgotten_s) / WINDOW_S) + now
        # One is forgotten after so long, as long as there is something of the minute before; else nothing till its end.
        reset_s = WINDOW_S / before if before and forgotten_s > 0 else ends_s % WINDOW_S
        return Left(max(0, most - spent), max(1, math.ceil(reset_s)))


def in_redis(client: Client) -> Counted:
    """Counters that all processes share."""
    storage = RedisStorage("redis://", connection_pool=client.connection_pool, key_prefix=KEYS)
    return Counted(storage, client.served)


def in_memory() -> Counted:
    """Counters of this process: for tests."""
    return Counted(MemoryStorage())
