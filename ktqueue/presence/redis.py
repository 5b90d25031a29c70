"""Presence in Redis.

=======================  =======================================================
``ktq:slot:<name>``      what one slot told, and when, as JSON; expires
``ktq:slots``            the names of slots; those that expired go when it is read
=======================  =======================================================
"""

from __future__ import annotations

from typing import cast

from ktqueue.presence.base import Seen, Slot
from ktqueue.redis_client import Client

NAMES = "ktq:slots"
LONGEST_MS = 600_000
"""The index goes too when nobody has told for so long."""

TELL = f"""
local now = redis.call('TIME')
redis.call('SET', KEYS[1], string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000)) .. ' ' .. ARGV[2],
  'PX', ARGV[3])
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('PEXPIRE', KEYS[2], {LONGEST_MS} + ARGV[3])
"""


class RedisPresence:
    """Implements `Presence`; see there. On one Redis, by its clock."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._tell = client.register_script(TELL)

    def tell(self, slot: Slot, *, for_ms: int) -> None:
        """Leave word of a slot; it is forgotten after ``for_ms``."""
        with self._client.served():
            self._tell(keys=[f"ktq:slot:{slot.name}", NAMES], args=[slot.name, slot.to_json(), for_ms])

    def slots(self) -> list[Seen]:
        """Every slot that told of late, by model and name."""
        with self._client.served():
            names = sorted(cast("set[str]", self._client.smembers(NAMES)))
            if not names:
                return []
            with self._client.pipeline(transaction=False) as batch:
                batch.mget([f"ktq:slot:{name}" for name in names])
                batch.time()
                told, (seconds, microseconds) = batch.execute()
            gone = [name for name, word in zip(names, told, strict=True) if word is None]
            if gone:
                self._client.srem(NAMES, *gone)
        now = seconds * 1000 + microseconds // 1000
        living = [_seen(word, now) for word in told if word is not None]
        return sorted(living, key=lambda seen: (seen.slot.model, seen.slot.name))


def _seen(word: str, now: int) -> Seen:
    at, _, slot = word.partition(" ")
    return Seen(Slot.from_json(slot), max(0, now - int(at)))
