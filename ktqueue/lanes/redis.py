"""Lanes in Redis, one round trip a call.

============================  ====================================================================
``ktq:lane:<model>``          sorted set of job ids by rank; as long as the lane
``ktq:bell:<model>``          there while a bell is on its way; expires
``ktq:finished:<model>``      hash, jobs finished by span of time on the server's clock; expires
``ktq:cancel:<model>``        stream of job ids to drop, capped; expires
``ktq:backlog``               what the sweep counted last, as JSON; expires
``ktq:room:<model>``          what one of its slots holds, as JSON; expires
============================  ====================================================================
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import cast

import orjson

from ktqueue.lanes.base import BACKLOG_MS, ROOM_MS, Backlog, Entry, LaneView
from ktqueue.lanes.pace import SPAN_S, SPANS, pace
from ktqueue.redis_client import Client
from ktqueue.room import Room

BELL_MS = 1_000
"""A bell that nobody answers in this time is taken for lost: a worker killed as it took the message takes it along, and
so does a server that dies. One that merely waits for a busy worker is not sent again, however often this runs out."""
CANCELS_KEPT = 10_000
CANCELS_MS = 60_000
"""Slots look at every step. One that is stuck for longer learns from its lease that the job is gone."""

BACKLOG = "ktq:backlog"

COUNT_FINISHED = f"""
local span = math.floor(redis.call('TIME')[1] / {SPAN_S})
if redis.call('HINCRBY', KEYS[1], string.format('%d', span), ARGV[1]) == tonumber(ARGV[1]) then
  for _, old in ipairs(redis.call('HKEYS', KEYS[1])) do
    if tonumber(old) <= span - {SPANS} then redis.call('HDEL', KEYS[1], old) end
  end
end
redis.call('EXPIRE', KEYS[1], {SPAN_S * (SPANS + 1)})
"""


class RedisLanes:
    """Lanes on one Redis (not a cluster). ``bell(model)`` sends the wake-up; it may raise LanesUnavailable."""

    def __init__(self, client: Client, bell: Callable[[str], None], *, bell_ms: int = BELL_MS) -> None:
        self._client = client
        self._bell = bell
        self._bell_ms = bell_ms
        self._count_finished = client.register_script(COUNT_FINISHED)

    def ping(self) -> None:
        """Really ask the server; raises LanesUnavailable."""
        with self._client.served():
            self._client.ping()

    def add(self, entries: Sequence[Entry]) -> None:
        """Add ids (idempotent) and ring the bell of each lane touched."""
        lanes: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for entry in entries:
            lanes[entry.model][entry.id] = entry.rank
        with self._client.served(), self._client.pipeline(transaction=False) as batch:
            for model, ranks in lanes.items():
                batch.zadd(f"ktq:lane:{model}", ranks)
                batch.set(f"ktq:bell:{model}", 1, nx=True, px=self._bell_ms)
            rings = batch.execute()[1::2]
        for model, ring in zip(lanes, rings, strict=True):
            if ring:
                self._bell(model)

    def pull(self, model: str, limit: int) -> list[str]:
        """Take out up to ``limit`` ids, smallest rank first; no two callers get the same id."""
        if limit <= 0:
            return []
        with self._client.served():
            popped = cast("list[tuple[str, float]]", self._client.zpopmin(f"ktq:lane:{model}", limit))
        return [job_id for job_id, _ in popped]

    def remove(self, model: str, job_id: str) -> None:
        """Take one id out, if it is there."""
        with self._client.served():
            self._client.zrem(f"ktq:lane:{model}", job_id)

    def missing(self, model: str, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that the lane does not hold."""
        if not ids:
            return []
        with self._client.served():
            ranks = self._client.zmscore(f"ktq:lane:{model}", list(ids))
        return [job_id for job_id, rank in zip(ids, ranks, strict=True) if rank is None]

    def position(self, model: str, job_id: str) -> int | None:
        """How many are ahead of this job; None if it is not in the lane."""
        with self._client.served():
            return cast("int | None", self._client.zrank(f"ktq:lane:{model}", job_id))

    def view(self, model: str) -> LaneView:
        """Depth and rate."""
        return self.views([model])[model]

    def views(self, models: Collection[str]) -> dict[str, LaneView]:
        """The same of several lanes at once."""
        with self._client.served(), self._client.pipeline(transaction=False) as batch:
            for model in models:
                batch.zcard(f"ktq:lane:{model}")
                batch.hgetall(f"ktq:finished:{model}")
            batch.time()
            *answers, (seconds, microseconds) = batch.execute()
        now = seconds * 1000 + microseconds // 1000
        depths, finished = answers[::2], answers[1::2]
        return {
            model: LaneView(depth, pace({int(span): int(jobs) for span, jobs in counts.items()}, now))
            for model, depth, counts in zip(models, depths, finished, strict=True)
        }

    def tell_backlog(self, backlog: Backlog) -> None:
        """Leave it for every process to read, for ``BACKLOG_MS``."""
        with self._client.served():
            self._client.set(BACKLOG, orjson.dumps(asdict(backlog)), px=BACKLOG_MS)

    def backlog(self) -> Backlog | None:
        """The one that was told last; None if that is too long ago."""
        with self._client.served():
            told = cast("str | None", self._client.get(BACKLOG))
        return None if told is None else Backlog(**orjson.loads(told))

    def tell_room(self, model: str, room: Room) -> None:
        """Leave word of what one slot of a lane holds, for ``ROOM_MS``."""
        with self._client.served():
            self._client.set(f"ktq:room:{model}", room.to_json(), px=ROOM_MS)

    def rooms(self, models: Collection[str]) -> dict[str, Room]:
        """What a slot of each lane holds, as was told last; lanes of which it is not known are left out."""
        if not models:
            return {}
        with self._client.served():
            told = cast("list[str | None]", self._client.mget([f"ktq:room:{model}" for model in models]))
        return {model: Room.from_json(room) for model, room in zip(models, told, strict=True) if room is not None}

    def ring(self, model: str) -> None:
        """Wake a worker of this lane, unless a bell is already pending."""
        with self._client.served():
            ring = self._client.set(f"ktq:bell:{model}", 1, nx=True, px=self._bell_ms)
        if ring:
            self._bell(model)

    def answer(self, model: str) -> None:
        """Note that the bell was heard: the next ``ring`` sends a new one."""
        with self._client.served():
            self._client.delete(f"ktq:bell:{model}")

    def count_finished(self, model: str, jobs: int) -> None:
        """Feed the lane's rate."""
        if jobs > 0:
            with self._client.served():
                self._count_finished(keys=[f"ktq:finished:{model}"], args=[jobs])

    def ask_cancel(self, model: str, ids: Sequence[str]) -> None:
        """Tell the slots of a lane to drop jobs that are in their batch."""
        if not ids:
            return
        stream = f"ktq:cancel:{model}"
        with self._client.served(), self._client.pipeline(transaction=False) as batch:
            for job_id in ids:
                batch.xadd(stream, {"id": job_id}, maxlen=CANCELS_KEPT, approximate=True)
            batch.pexpire(stream, CANCELS_MS)
            batch.execute()

    def cancels(self, model: str, after: str) -> tuple[list[str], str]:
        """Ids to drop that were asked for after the mark ``after`` ("" for all kept), and the new mark."""
        with self._client.served():
            kept = self._client.xrange(f"ktq:cancel:{model}", min=f"({after}" if after else "-")
        asked = cast("list[tuple[str, dict[str, str]]]", kept)
        return [fields["id"] for _, fields in asked], asked[-1][0] if asked else after
