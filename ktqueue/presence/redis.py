"""Presence in Redis.

=======================  =======================================================
``ktq:slot:<name>``      what one slot told, and when, as JSON; expires
``ktq:slots``            the names of slots; those that expired go when it is read
``ktq:worker:<name>``    what one worker told, and when, as JSON; expires
``ktq:workers``          the names of workers, as of slots
=======================  =======================================================
"""

from __future__ import annotations

from typing import cast

from ktqueue.presence.base import Seen, SeenWorker, Slot, Worker
from ktqueue.redis_client import Client

SLOT, WORKER = "ktq:slot", "ktq:worker"
NAMES = f"{SLOT}s"
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
        self._leave_word = client.register_script(TELL)

    def tell(self, slot: Slot, *, for_ms: int) -> None:
        """Leave word of a slot; it is forgotten after ``for_ms``."""
        self._tell(SLOT, slot.name, slot.to_json(), for_ms)

    def slots(self) -> list[Seen]:
        """Every slot that told of late, by model and name."""
        living = [Seen(Slot.from_json(word), age_ms) for word, age_ms in self._told(SLOT)]
        return sorted(living, key=lambda seen: (seen.slot.model, seen.slot.name))

    def tell_worker(self, worker: Worker, *, for_ms: int) -> None:
        """Leave word of a worker; it is forgotten after ``for_ms``."""
        self._tell(WORKER, worker.name, worker.to_json(), for_ms)

    def workers(self) -> list[SeenWorker]:
        """Every worker that told of late, by name."""
        living = [SeenWorker(Worker.from_json(word), age_ms) for word, age_ms in self._told(WORKER)]
        return sorted(living, key=lambda seen: seen.worker.name)

    def _tell(self, kind: str, name: str, word: bytes, for_ms: int) -> None:
        with self._client.served():
            self._leave_word(keys=[f"{kind}:{name}", f"{kind}s"], args=[name, word, for_ms])

    def _told(self, kind: str) -> list[tuple[str, int]]:
        """Each word of this kind, and how many milliseconds ago it was left."""
        with self._client.served():
            names = sorted(cast("set[str]", self._client.smembers(f"{kind}s")))
            if not names:
                return []
            with self._client.pipeline(transaction=False) as batch:
                batch.mget([f"{kind}:{name}" for name in names])
                batch.time()
                told, (seconds, microseconds) = batch.execute()
            gone = [name for name, word in zip(names, told, strict=True) if word is None]
            if gone:
                self._client.srem(f"{kind}s", *gone)
        now = seconds * 1000 + microseconds // 1000
        return [(each, max(0, now - int(at))) for at, _, each in (word.partition(" ") for word in told if word)]
