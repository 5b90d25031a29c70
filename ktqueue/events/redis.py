"""Events in Redis: a stream a job, ``ktq:events:<job id>``, capped, that expires.

An EventId is a stream's own kind of id. A stream takes no id that is not above its last: that is the fence against
the late words of an older claim. An entry has one field: the event's type, with its data as JSON.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import orjson

from ktqueue.events.base import END, Event, EventId
from ktqueue.redis_client import ANSWER_S, Client

KEPT = 4096
KEPT_MS = 600_000
ENDED_MS = 5_000
"""A job that has ended is soon forgotten: its row says it all, and Redis spends 4 KB on the smallest stream."""
LONGEST_BLOCK_MS = int(ANSWER_S * 1000) - 1000

# One argument for the whole group: redis-py's cost is per argument, and this is four times as fast as a pipeline.
# The keys can't be declared then, which only a cluster would mind; it could not run a group's script anyway.
PUBLISH = f"""
for _, event in ipairs(cjson.decode(ARGV[1])) do
  local stream, id, type, data, kept_ms = 'ktq:events:' .. event[1], unpack(event, 2)
  local added = redis.pcall('XADD', stream, 'MAXLEN', '~', {KEPT}, id, type, data)
  if not added.err then
    redis.call('PEXPIRE', stream, kept_ms)
  elseif not string.find(added.err, 'equal or smaller', 1, true) then
    return added
  end
end
"""

_Entries = list[tuple[str, dict[str, str]]]


class RedisEvents:
    """Events on one Redis (not a cluster). A waiting reader holds a connection of the client's pool."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._publish = client.register_script(PUBLISH)

    def publish(self, events: Sequence[Event]) -> None:
        """Append, in order; an event whose id is not above its job's last is dropped. Raises LanesUnavailable."""
        if not events:
            return
        with self._client.served():
            self._publish(args=[orjson.dumps([_packed(event) for event in events])])

    def read(self, job_id: str, after: EventId, *, wait_s: float) -> list[Event]:
        """Events of a job above ``after``; waits up to ``wait_s`` for the first. Raises LanesUnavailable."""
        deadline = time.monotonic() + wait_s
        while True:
            left_ms = int((deadline - time.monotonic()) * 1000)
            block = min(left_ms, LONGEST_BLOCK_MS) if left_ms > 0 else None  # 0 would mean for ever
            with self._client.served():
                streams = self._client.xread({f"ktq:events:{job_id}": str(after)}, block=block)
            if streams:
                return _events(job_id, cast("list[tuple[str, _Entries]]", streams)[0][1])
            if block is None:
                return []

    def latest(self, job_id: str) -> Event | None:
        """The newest event, if any is kept."""
        with self._client.served():
            entries = cast("_Entries", self._client.xrevrange(f"ktq:events:{job_id}", count=1))
        return next(iter(_events(job_id, entries)), None)


def _packed(event: Event) -> tuple[str, str, str, str, int]:
    kept_ms = KEPT_MS if event.id.offset < END else ENDED_MS
    return event.job_id, str(event.id), event.type, orjson.dumps(event.data).decode(), kept_ms


def _events(job_id: str, entries: _Entries) -> list[Event]:
    return [
        Event(job_id, EventId.parse(entry_id), type_, orjson.loads(data))
        for entry_id, fields in entries
        for type_, data in fields.items()
    ]
