"""Whose turn it is: the order in which a lane's jobs run, told without changing anything. Pure.

Higher classes of priority go first. Within a class tenants share by cost, in start-time fair queuing (Goyal, Vin and
Cheng, "Start-time Fair Queuing", SIGCOMM 1996): who has the smallest start tag gives a job, and its tag goes up by the
job's cost over the tenant's weight. One who comes back begins at the class's virtual time, the start tag that was
served last, so it is owed nothing for its absence and waits for nobody's backlog. Within a tenant the smaller rank
(`ktqueue.rank`) goes first.

A class whose oldest job has waited ``AGE_MS`` for each class above it is aged: while higher classes have jobs, every
``AGED_EVERY``-th turn goes to one that is aged, the aged one after the other. So nothing starves, and no backlog,
however old, takes more than its turns from those above it.

A tenant may be bounded in how many turns it has left; who has none is passed over, and its tag goes up with the class's
virtual time: it is owed nothing for a time in which its own limit held it back, as if it had been away. So may a key.
The jobs of such a key lie in a queue of their own, beside the others of their tenant, which still has one tag and one
share: its next job is the first of its queues' first jobs, leaving out those of keys that have no turn left. A tenant
who has no other is passed over itself.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from ktqueue.priority_class import Entry, PriorityClass
from ktqueue.rank import HIGHEST_PRIORITY
from ktqueue.tenant import NOBODY

AGE_MS = 60_000
AGED_EVERY = 4


def age_of(priority: int) -> int:
    """How long a job has waited (ms) that makes its class aged."""
    return AGE_MS * (HIGHEST_PRIORITY - priority)


@dataclass(frozen=True, slots=True)
class Turn:
    """The next to run: the ``index``-th job that a tenant gives; ``entry`` is None where it has no such job."""

    priority: int
    tenant: str
    index: int
    entry: Entry | None


@dataclass(slots=True)
class Round:
    """A class as it will be after some turns. ``tags``: of those who had one; ``gone``: the jobs they gave.

    ``given``: how many of each queue; ``held``: who was passed over, ``full``: the keys that were.
    """

    turns: list[tuple[float, str]]
    time: float
    tags: dict[str, float] = field(default_factory=dict)
    given: Counter[str] = field(default_factory=Counter)
    gone: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    full: set[str] = field(default_factory=set)
    oldest: int = 0


class Turns:
    """The next ``limit`` turns of a lane at ``now`` (Unix ms). ``rounds`` tells what they leave behind.

    ``since_aged`` and ``last_aged`` are the turns since an aged class had one, and that class; they are moved on.
    ``left`` says how many turns tenants and keys may have that are bounded.
    ``guest``, a class and a tenant, gets its turns though it has no more jobs. At the first of those all ends.
    """

    def __init__(
        self,
        classes: Sequence[PriorityClass],
        entries: Mapping[str, Entry],
        weight_of: Callable[[str], float],
        *,
        limit: int,
        now: int,
        since_aged: int,
        last_aged: int,
        left: Mapping[str, int] = NOBODY,
        guest: tuple[int, str] | None = None,
    ) -> None:
        self._classes = classes
        self._entries = entries
        self._weight_of = weight_of
        self._limit = limit
        self._now = now
        self._left = dict(left)
        # Those who are passed over come on top of those who may have a turn among so many.
        self._most = limit + sum(more <= 0 for more in self._left.values())
        self._guest = guest
        self.since_aged = since_aged
        self.last_aged = last_aged
        self.rounds: dict[int, Round] = {}

    def __iter__(self) -> Iterator[Turn]:
        """Each turn, until the limit or the end."""
        for _ in range(self._limit):
            priority = self._choose()
            if priority is None:
                return
            turn = self._give(priority)
            yield turn
            if turn.entry is None:
                return

    def passed_over(self) -> frozenset[str]:
        """The tenants and keys that had no turn left when theirs came."""
        rounds = self.rounds.values()
        tenants = {tenant for round_ in rounds for tenant in round_.held if self._left.get(tenant, 1) <= 0}
        return frozenset(tenants).union(*(round_.full for round_ in rounds))

    def _choose(self) -> int | None:
        """Whose class's turn it is."""
        top: int | None = next(filter(self._waits, range(HIGHEST_PRIORITY, -1, -1)), None)
        if top is None:
            return None
        if self.since_aged >= AGED_EVERY - 1:
            after = min(self.last_aged, top)
            for priority in chain(range(after - 1, -1, -1), range(top - 1, after - 1, -1)):
                if self._aged(priority) and self._waits(priority):
                    self.since_aged, self.last_aged = 0, priority
                    return priority
        else:
            self.since_aged += 1
        return top

    def _waits(self, priority: int) -> bool:
        if self._left:
            self._pass_over(priority)
        if priority in self.rounds:
            return bool(self.rounds[priority].turns)
        return bool(self._classes[priority].turns) or (self._guest is not None and self._guest[0] == priority)

    def _pass_over(self, priority: int) -> None:
        """Let the first in a round be one who may have a turn."""
        round_ = self._round(priority)
        while round_.turns and not self._may(priority, round_.turns[0][1]):
            round_.held.add(round_.turns.pop(0)[1])

    def _may(self, priority: int, tenant: str) -> bool:
        if self._left.get(tenant, 1) <= 0:
            return False
        return (priority, tenant) == self._guest or self._next_queue(priority, tenant) is not None

    def _next_queue(self, priority: int, tenant: str) -> str | None:
        """The queue that has a tenant's next job. The keys are noted that are passed over for it."""
        round_, queues = self._round(priority), self._classes[priority].queues
        firsts = sorted(
            (*queues[name][round_.given[name]], name)
            for name in self._classes[priority].queues_of(tenant)
            if round_.given[name] < len(queues[name])
        )
        for _, _, name in firsts:
            if name == tenant or self._left.get(name, 1) > 0:
                return name
            round_.full.add(name)
        return None

    def _aged(self, priority: int) -> bool:
        due = self._classes[priority].due
        oldest = 0
        if priority in self.rounds:
            round_ = self.rounds[priority]
            while round_.oldest < len(due) and due[round_.oldest][1] in round_.gone:
                round_.oldest += 1
            oldest = round_.oldest
        return oldest < len(due) and due[oldest][0] + age_of(priority) <= self._now

    def _round(self, priority: int) -> Round:
        if priority not in self.rounds:
            one = self._classes[priority]
            # Whoever is behind so many others has no turn among so many.
            self.rounds[priority] = Round(one.turns[: self._most], one.time)
            if self._guest is not None and self._guest[0] == priority and self._guest[1] not in one.tags:
                insort(self.rounds[priority].turns, (one.tag_of(self._guest[1]), self._guest[1]))
        return self.rounds[priority]

    def _give(self, priority: int) -> Turn:
        round_, one = self._round(priority), self._classes[priority]
        tag, tenant = round_.turns.pop(0)
        queues = one.queues_of(tenant)
        index = sum(round_.given[name] for name in queues)
        name = self._next_queue(priority, tenant)
        if name is None:
            return Turn(priority, tenant, index, None)
        entry = self._entries[one.queues[name][round_.given[name]][1]]
        round_.given[name] += 1
        for owner in {tenant, name} & self._left.keys():
            self._left[owner] -= 1
        round_.gone.add(entry.id)
        round_.time = max(round_.time, tag)
        round_.tags[tenant] = tag + entry.cost / self._weight_of(tenant)
        if index + 1 < sum(len(one.queues[name]) for name in queues) or (priority, tenant) == self._guest:
            insort(round_.turns, (round_.tags[tenant], tenant))
        return Turn(priority, tenant, index, entry)
