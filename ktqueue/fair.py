"""A lane in which nobody has to wait for another's backlog: what is in it, and what is taken out next. Pure.

`ktqueue.turns` has the order. `ktqueue.lanes.redis` does the same in Lua, and a test holds the two together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from math import ceil

from ktqueue.priority_class import Entry, PriorityClass
from ktqueue.rank import HIGHEST_PRIORITY
from ktqueue.tenant import NOBODY
from ktqueue.turns import AGED_EVERY, Turns

LOOK = 50
"""So many turns are foretold one by one; what comes after them is estimated from averages."""
TENANTS_ASKED = 50
"""An estimate asks so many others what they will run first, and takes the rest to be like them."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """What runs before a job, if nothing else comes: so many jobs, and what they cost.

    ``own`` are its tenant's, and ``keys`` its key's, if that is bounded.
    """

    jobs: int
    cost: int
    own: int = 0
    keys: int = 0


class FairQueue:
    """A lane. ``weight_of(tenant)`` is asked at each turn; twice the weight is twice the share.

    ``held`` are the tenants and keys that the last pull passed over: their jobs are taken to be in nobody's way.
    """

    def __init__(self, weight_of: Callable[[str], float] = lambda _: 1.0) -> None:
        self._weight_of = weight_of
        self._entries: dict[str, Entry] = {}
        self._classes = [PriorityClass() for _ in range(HIGHEST_PRIORITY + 1)]
        self._since_aged = AGED_EVERY - 1
        self._last_aged = 0
        self.held: Collection[str] = frozenset()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._entries

    @property
    def cost(self) -> int:
        """Of everything that waits."""
        return sum(one.cost for one in self._classes)

    def get(self, job_id: str) -> Entry | None:
        """A job that waits."""
        return self._entries.get(job_id)

    def put(self, entry: Entry) -> None:
        """Add a job, or move it; to add it again as it is changes nothing."""
        if self._entries.get(entry.id) != entry:
            self.take(entry.id)
            self._entries[entry.id] = entry
            self._classes[entry.priority].put(entry)

    def take(self, job_id: str) -> None:
        """Take a job out, if it is there."""
        entry = self._entries.pop(job_id, None)
        if entry is not None:
            self._classes[entry.priority].take(entry)

    def pull(self, limit: int, now: int, left: Mapping[str, int] = NOBODY) -> list[str]:
        """Take out up to ``limit`` jobs, those whose turn it is; ``now`` is Unix milliseconds.

        Of the tenants and keys in ``left`` it takes no more than that says.
        """
        turns = self._turns(limit, now, left)
        ids = [turn.entry.id for turn in turns if turn.entry is not None]
        self._since_aged, self._last_aged = turns.since_aged, turns.last_aged
        for priority, round_ in turns.rounds.items():
            one = self._classes[priority]
            one.time = round_.time
            for tenant, tag in round_.tags.items():
                one.move(tenant, tag)
            for tenant in round_.held if round_.tags else ():
                one.move(tenant, max(one.tags[tenant], one.time))
        self.held = turns.passed_over()
        for job_id in ids:
            self.take(job_id)
        return ids

    def correct(self, tenant: str, priority: int, more: int) -> None:
        """A job that was pulled turned out to cost ``more`` than its entry said; less, below 0."""
        self._classes[priority].correct(tenant, more / self._weight_of(tenant))

    def ahead(self, entry: Entry, now: int) -> Ahead:
        """What runs before a job that waits, or that would come."""
        one = self._classes[entry.priority]
        held = set(self.held) - {entry.tenant, entry.queue}
        place = entry.rank, entry.id
        before = {name: bisect_left(one.queues[name], place) for name in one.queues_of(entry.tenant)}
        own = sum(jobs for name, jobs in before.items() if name not in held)
        keys = 0 if entry.key is None else before.get(entry.key, 0)
        earlier = bisect_left(one.turns, (one.tag_of(entry.tenant), ""))
        turns = self._turns(LOOK, now, dict.fromkeys(held, 0), guest=(entry.priority, entry.tenant))
        jobs = cost = 0
        for turn in turns if own + earlier < LOOK else ():
            if (turn.priority, turn.tenant, turn.index) == (entry.priority, entry.tenant, own):
                return Ahead(jobs, cost, own, keys)
            if turn.entry is not None:
                jobs, cost = jobs + 1, cost + turn.entry.cost
        return replace(self._far_ahead(entry, own, held), keys=keys)

    def _far_ahead(self, entry: Entry, own: int, held: Collection[str]) -> Ahead:
        """All of the higher classes, ``own`` jobs of its tenant's, and what others run before its tag comes up."""
        one = self._classes[entry.priority]
        each = one.cost / max(1, len(one.due))
        tag = one.tag_of(entry.tenant) + own * each / self._weight_of(entry.tenant)
        before = bisect_left(one.turns, (tag, ""))
        asked = others = 0
        for their_tag, tenant in islice(one.turns, min(before, TENANTS_ASKED)):
            if tenant != entry.tenant and tenant not in held:
                turns = ceil((tag - their_tag) * self._weight_of(tenant) / each)
                theirs = sum(len(one.queues[name]) for name in one.queues_of(tenant) if name not in held)
                asked, others = asked + 1, others + min(theirs, turns)
        if before > TENANTS_ASKED:
            others = others * before // max(1, asked)
        jobs, cost = own + others, (own + others) * each
        for higher in self._classes[entry.priority + 1 :]:
            waits = {queue for name in held for queue in higher.queues_of(name)}
            more = len(higher.due) - sum(len(higher.queues[queue]) for queue in waits)
            jobs, cost = jobs + more, cost + higher.cost * (more / max(1, len(higher.due)))
        return Ahead(jobs, int(cost), own)

    def _turns(self, limit: int, now: int, left: Mapping[str, int], guest: tuple[int, str] | None = None) -> Turns:
        return Turns(
            self._classes,
            self._entries,
            self._weight_of,
            limit=limit,
            now=now,
            since_aged=self._since_aged,
            last_aged=self._last_aged,
            left=left,
            guest=guest,
        )
