"""Lanes: for each model the ordered queue of job ids, and the bell that wakes an idle worker.

A lane only orders. Whatever it forgets is added again from the store, and adding twice is adding once.
Any method may raise LanesUnavailable.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from ktqueue.errors import LanesUnavailable, StoreUnavailable
from ktqueue.fair import Ahead
from ktqueue.lanes.accuracy import Accuracy
from ktqueue.priority_class import Entry
from ktqueue.room import Room
from ktqueue.tenant import NOBODY


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane at a glance. What too little has ended to say is None.

    ``rate`` is jobs finished per second of late, ``speed`` the cost served per second while jobs wait, ``ms_each``
    how long a run takes for each unit of its cost. ``cost`` is that of all that wait. ``least_ms_each`` is how long one
    that begins now takes at least for each unit; 0 where nobody knows.
    """

    depth: int
    rate: float | None
    cost: int = 0
    speed: float | None = None
    ms_each: float | None = None
    least_ms_each: float = 0.0


class Ended(NamedTuple):
    """A job that was pulled and has ended: what it was estimated to cost, what it did cost, how long it ran.

    ``whole``: it ran to its own end, and neither failed nor was cut.
    """

    tenant: str
    priority: int
    estimate: int
    cost: int
    run_ms: int
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Sums:
    """Jobs of a lane that ended together: how many, their estimates, how long they ran, each by itself.

    ``more`` is what those of a tenant and class did cost beyond their estimates, where that is not nothing; ``least``
    what the quickest took for each unit of its estimate, in ms, 0 if none was whole.
    """

    jobs: int
    work: int
    run_ms: int
    more: list[tuple[str, int, int]]
    least: float


def sums_of(ended: Sequence[Ended]) -> Sums:
    """A tenant pays for all that ended together at once, so it is no matter in which order they are told."""
    more: Counter[tuple[str, int]] = Counter()
    work = run_ms = 0
    least = math.inf
    for tenant, priority, estimate, cost, ran_ms, whole in ended:
        work += estimate
        run_ms += ran_ms
        if whole:
            least = min(least, max(1, ran_ms) / estimate)
        if cost != estimate:
            more[tenant, priority] += cost - estimate
    beyond = [(*whose, cost) for whose, cost in more.items() if cost]
    return Sums(len(ended), work, run_ms, beyond, 0.0 if least == math.inf else least)


BACKLOG_MS = 10_000
"""A backlog that is not told anew in this time is forgotten."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the store said at ``taken_at`` (its clock, Unix ms) and lanes can't know.

    ``later``: by lane, the queued jobs that it does not hold, for their time has not come or they run apart.
    ``size``: bytes of everything that is queued.
    """

    taken_at: int
    later: Mapping[str, int]
    size: int


ROOM_MS = 86_400_000
"""What slots of a lane hold is forgotten when none has told for this time."""


Bounded: TypeAlias = Callable[[], Collection[str]]
"""Tells the keys that are bounded in how many of their jobs run at once. May raise StoreUnavailable."""


def placed(entries: Sequence[Entry], bounded: Bounded) -> Sequence[Entry]:
    """Entries as lanes hold them: where its key is not bounded, a job lies with its tenant's others.

    What lies in the wrong queue, for that has changed since, is found by the claim. Raises LanesUnavailable.
    """
    if all(entry.key is None for entry in entries):
        return entries
    try:
        keys = bounded()
    except StoreUnavailable as error:
        raise LanesUnavailable(f"nobody knows which keys are bounded: {error}") from error
    return [entry if entry.key in keys else entry.of_tenant() for entry in entries]


class Lanes(Protocol):
    """Queues in the order of `ktqueue.turns`, with a bell."""

    def ping(self) -> None:
        """Really ask the server; raises LanesUnavailable."""

    def add(self, entries: Sequence[Entry]) -> None:
        """Add ids (idempotent) and ring the bell of each lane touched."""

    def pull(self, model: str, limit: int, left: Mapping[str, int] = NOBODY) -> list[str]:
        """Take out up to ``limit`` ids, those whose turn it is; no two callers get the same id.

        Of the tenants and keys in ``left`` no more than it says. Who is passed over for that is noted.
        """

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Add ids that were pulled and did not run: their tenants get back what they paid for them."""

    def freed(self, owners: Collection[str]) -> set[str]:
        """Jobs of these tenants and keys run no more: ring for lanes whose last pull passed over one of them; which."""

    def remove(self, model: str, job_id: str) -> None:
        """Take one id out, if it is there."""

    def missing(self, model: str, ids: Sequence[str]) -> list[str]:
        """Those of ``ids`` that the lane does not hold."""

    def ahead(self, model: str, job_id: str) -> Ahead | None:
        """What runs before this job; None if it is not in the lane."""

    def ahead_of(self, entry: Entry) -> Ahead:
        """What would run before a job that is not in its lane yet."""

    def view(self, model: str) -> LaneView:
        """How long it is, and how fast."""

    def views(self, models: Collection[str]) -> dict[str, LaneView]:
        """The same of several lanes at once."""

    def tell_backlog(self, backlog: Backlog) -> None:
        """Leave it for every process to read, for ``BACKLOG_MS``."""

    def backlog(self) -> Backlog | None:
        """The one that was told last; None if that is too long ago."""

    def tell_room(self, model: str, room: Room) -> None:
        """Leave word of what one slot of a lane holds, for ``ROOM_MS``."""

    def rooms(self, models: Collection[str]) -> dict[str, Room]:
        """What a slot of each lane holds, as was told last; lanes of which it is not known are left out."""

    def foretell(self, model: str, job_id: str, wait_ms: int) -> None:
        """Keep that a job which waits has been told to wait so long from now: when it is pulled, that is judged."""

    def accuracies(self, models: Collection[str]) -> dict[str, Accuracy]:
        """How true what was foretold has been of late; lanes of which nothing is known are left out."""

    def ring(self, model: str) -> None:
        """Wake a worker of this lane, unless a bell is already pending."""

    def answer(self, model: str) -> None:
        """Note that the bell was heard: the next ``ring`` sends a new one."""

    def count_finished(self, model: str, ended: Sequence[Ended]) -> float:
        """Feed the lane's rate and speed, and let tenants have paid what jobs did cost.

        Returns what a view now has as its ``least_ms_each``.
        """

    def tell_weights(self, weights: Mapping[str, float]) -> None:
        """The weights of tenants, for all lanes; those that are left out have 1."""

    def ask_cancel(self, model: str, ids: Sequence[str]) -> None:
        """Tell the slots of a lane to drop jobs that are in their batch."""

    def cancels(self, model: str, after: str) -> tuple[list[str], str]:
        """Ids to drop that were asked for after the mark ``after`` ("" for all kept), and the new mark."""
