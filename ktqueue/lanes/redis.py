"""Lanes in Redis, one round trip a call.

============================  ====================================================================
``ktq:waits:<model>``         hash of what waits: class, cost, tenant (bounded key) by job id; as long as the lane
``ktq:queue:<model>:…``       sorted set, a tenant's jobs of one class by rank; ``…`` is ``<class>:<tenant>``;
                              those of a bounded key in one of their own, ``<class>:<key>``
``ktq:keys:<model>``          sorted set of those of bounded keys: class, tenant and key
``ktq:due:<model>:<class>``   sorted set, a class's jobs by since when they are due
``ktq:turns:<model>:<class>`` sorted set, the tenants with jobs by start tag
``ktq:paid:<model>:<class>``  sorted set, tenants without jobs whose tag is still ahead
``ktq:fair:<model>``          hash: each class's virtual time and cost, and which was served as aged
``ktq:weights``               hash: weights of tenants
``ktq:held``                  hash: by model, as JSON, the tenants and keys that its last pull passed over
``ktq:foretold:<model>``      hash: waits that were foretold of jobs, and when; capped, expires
``ktq:errors:<model>``        list: how wrong the latest of those were; capped, expires
``ktq:service:<model>``       hash: how fast it is served while jobs wait; expires
``ktq:bell:<model>``          there while a bell is on its way; expires
``ktq:finished:<model>``      hash, jobs finished by span of time on the server's clock; expires
``ktq:cancel:<model>``        stream of job ids to drop, capped; expires
``ktq:backlog``               what the sweep counted last, as JSON; expires
``ktq:room:<model>``          what one of its slots holds, as JSON; expires
============================  ====================================================================
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import cast

import orjson

from ktqueue.fair import Ahead
from ktqueue.lanes import lua_ahead, lua_lane, lua_pull
from ktqueue.lanes.accuracy import KEPT, Accuracy, accuracy_of
from ktqueue.lanes.base import BACKLOG_MS, ROOM_MS, Backlog, Bounded, Ended, LaneView, placed, sums_of
from ktqueue.lanes.pace import Service, pace
from ktqueue.priority_class import Entry
from ktqueue.rank import HIGHEST_PRIORITY
from ktqueue.redis_client import Client
from ktqueue.room import Room
from ktqueue.tenant import NOBODY

BELL_MS = 1_000
"""A bell that nobody answers in this time is taken for lost: a worker killed as it took the message takes it along, and
so does a server that dies. One that merely waits for a busy worker is not sent again, however often this runs out."""
CANCELS_KEPT = 10_000
CANCELS_MS = 60_000
"""Slots look at every step. One that is stuck for longer learns from its lease that the job is gone."""

MOST_PULLED = MOST_ADDED = 1_000

BACKLOG = "ktq:backlog"
COSTS = [f"cost{priority}" for priority in range(HIGHEST_PRIORITY + 1)]


class RedisLanes:
    """Lanes on one Redis (not a cluster). ``bell(model)`` sends the wake-up; it may raise LanesUnavailable."""

    def __init__(
        self, client: Client, bell: Callable[[str], None], bounded: Bounded = tuple, *, bell_ms: int = BELL_MS
    ) -> None:
        self._client = client
        self._bell = bell
        self._bounded = bounded
        self._bell_ms = bell_ms
        self._add = client.register_script(lua_lane.ADD)
        self._pull = client.register_script(lua_pull.PULL)
        self._remove = client.register_script(lua_lane.REMOVE)
        self._foretell = client.register_script(lua_pull.FORETELL)
        self._ahead = client.register_script(lua_ahead.AHEAD)
        self._pay = client.register_script(lua_lane.PAY)
        self._count_finished = client.register_script(lua_lane.COUNT_FINISHED)

    def ping(self) -> None:
        """Really ask the server; raises LanesUnavailable."""
        with self._client.served():
            self._client.ping()

    def add(self, entries: Sequence[Entry]) -> None:
        """Add ids (idempotent) and ring the bell of each lane touched."""
        lanes: defaultdict[str, list[tuple[object, ...]]] = defaultdict(list)
        for each in placed(entries, self._bounded):
            place = each.rank, each.due_at, each.priority, each.cost, each.tenant, each.queue
            lanes[each.model].append((each.id, *place))
        for model, group in lanes.items():
            with self._client.served():
                parts = (group[start : start + MOST_ADDED] for start in range(0, len(group), MOST_ADDED))
                rings = [self._add(args=[model, self._bell_ms, orjson.dumps(part)]) for part in parts]
            if any(rings):
                self._bell(model)

    def pull(self, model: str, limit: int, left: Mapping[str, int] = NOBODY) -> list[str]:
        """Take out up to ``limit`` ids, those whose turn it is; no two callers get the same id.

        Of the tenants and keys in ``left`` no more than it says. Who is passed over for that is noted.
        """
        if limit <= 0:
            return []
        bounds = orjson.dumps(dict(left)) if left else b""
        with self._client.served():
            return cast("list[str]", self._pull(args=[model, min(limit, MOST_PULLED), bounds]))

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Add ids that were pulled and did not run: their tenants get back what they paid for them."""
        refunds: defaultdict[str, list[tuple[str, int, int]]] = defaultdict(list)
        for each in entries:
            refunds[each.model].append((each.tenant, each.priority, -each.cost))
        for model, group in refunds.items():
            with self._client.served():
                self._pay(args=[model, orjson.dumps(group)])
        self.add(entries)

    def freed(self, owners: Collection[str]) -> set[str]:
        """Jobs of these tenants and keys run no more: ring for lanes whose last pull passed over one of them; which."""
        if not owners:
            return set()
        with self._client.served():
            noted = cast("dict[str, str]", self._client.hgetall(lua_lane.HELD))
        held = {model for model, names in noted.items() if not set(owners).isdisjoint(orjson.loads(names))}
        for model in held:
            self.ring(model)
        return held

    def remove(self, model: str, job_id: str) -> None:
        """Take one id out, if it is there."""
        with self._client.served():
            self._remove(args=[model, job_id])

    def missing(self, model: str, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that the lane does not hold."""
        if not ids:
            return []
        with self._client.served():
            held = cast("list[str | None]", self._client.hmget(f"ktq:waits:{model}", list(ids)))
        return [job_id for job_id, info in zip(ids, held, strict=True) if info is None]

    def ahead(self, model: str, job_id: str) -> Ahead | None:
        """What runs before this job; None if it is not in the lane."""
        with self._client.served():
            found = cast("list[int] | None", self._ahead(args=[model, job_id, "", "", "", ""]))
        return None if found is None else Ahead(*found)

    def ahead_of(self, entry: Entry) -> Ahead:
        """What would run before a job that is not in its lane yet."""
        [entry] = placed([entry], self._bounded)
        with self._client.served():
            found = self._ahead(args=[entry.model, "", entry.tenant, entry.priority, entry.rank, entry.queue])
        return Ahead(*cast("list[int]", found))

    def view(self, model: str) -> LaneView:
        """How long it is, and how fast."""
        return self.views([model])[model]

    def views(self, models: Collection[str]) -> dict[str, LaneView]:
        """The same of several lanes at once."""
        with self._client.served(), self._client.pipeline(transaction=False) as batch:
            for model in models:
                batch.hlen(f"ktq:waits:{model}")
                batch.hmget(f"ktq:fair:{model}", COSTS)
                batch.hgetall(f"ktq:finished:{model}")
                batch.hgetall(f"ktq:service:{model}")
            batch.time()
            *answers, (seconds, microseconds) = batch.execute()
        now = seconds * 1000 + microseconds // 1000
        return {model: _view(now, *answers[4 * at : 4 * at + 4]) for at, model in enumerate(models)}

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

    def foretell(self, model: str, job_id: str, wait_ms: int) -> None:
        """Keep that a job which waits has been told to wait so long from now: when it is pulled, that is judged."""
        with self._client.served():
            self._foretell(args=[model, job_id, wait_ms])

    def accuracies(self, models: Collection[str]) -> dict[str, Accuracy]:
        """How true what was foretold has been of late; lanes of which nothing is known are left out."""
        with self._client.served(), self._client.pipeline(transaction=False) as batch:
            for model in models:
                batch.lrange(f"ktq:errors:{model}", 0, KEPT - 1)
            told = [accuracy_of([float(error) for error in errors]) for errors in batch.execute()]
        return {model: each for model, each in zip(models, told, strict=True) if each is not None}

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

    def count_finished(self, model: str, ended: Sequence[Ended]) -> float:
        """Feed the lane's rate and speed, and let tenants have paid what jobs did cost; how quick a run is at best."""
        if not ended:
            return 0.0
        sums = sums_of(ended)
        more = orjson.dumps(sums.more)
        with self._client.served():
            told = self._count_finished(args=[model, sums.jobs, sums.work, sums.run_ms, more, sums.least])
        waited, quickest = cast("tuple[int, str]", told)
        return Service(waited=bool(waited), quickest=float(quickest)).least_ms_each(0)

    def tell_weights(self, weights: Mapping[str, float]) -> None:
        """The weights of tenants, for all lanes; those that are left out have 1."""
        with self._client.served(), self._client.pipeline() as batch:
            batch.delete(lua_lane.WEIGHTS)
            if weights:
                batch.hset(lua_lane.WEIGHTS, items=[each for pair in weights.items() for each in pair])
            batch.execute()

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


def _view(now: int, depth: int, costs: list[str | None], finished: dict[str, str], service: dict[str, str]) -> LaneView:
    counts = {int(span): int(jobs) for span, jobs in finished.items()}
    names = ("work", "ms", "run_work", "run_ms", "quickest")
    work, ms, run_work, run_ms, quickest = (float(service.get(name, 0)) for name in names)
    at, waited = int(service.get("at", 0)), service.get("waited") == "1"
    known = Service(at, waited, work, ms, run_work, run_ms, quickest)
    cost = sum(map(int, filter(None, costs)))
    return LaneView(depth, pace(counts, now), cost, known.speed, known.ms_each, known.least_ms_each(now))
