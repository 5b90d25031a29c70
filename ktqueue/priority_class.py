"""What one class of priority of a lane holds: jobs in queues, and tenants by start tag. `ktqueue.turns` has the order.

Pure.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from ktqueue.job import Job


@dataclass(frozen=True, slots=True)
class Entry:
    """One job's place in its lane. ``cost`` as `ktqueue.cost` has it, ``due_at`` in Unix milliseconds.

    ``key`` is the key that it came with. Within a lane it is only there if that is bounded.
    """

    model: str
    id: str
    rank: float
    tenant: str
    priority: int
    cost: int
    due_at: int
    key: str | None = None

    @property
    def queue(self) -> str:
        """The name of the queue in which it lies: its key, or its tenant."""
        return self.key or self.tenant

    def of_tenant(self) -> Entry:
        """The same in its tenant's own queue."""
        return Entry(self.model, self.id, self.rank, self.tenant, self.priority, self.cost, self.due_at)


def entry_of(job: Job, due_at: int) -> Entry:
    """The place of a job that is due since ``due_at``."""
    return Entry(job.model, job.id, job.rank, job.tenant, job.priority, job.cost, due_at, job.key)


@dataclass(slots=True)
class PriorityClass:
    """The jobs of one class. ``turns``: tags of tenants with jobs; ``paid``: those of others, ahead of ``time``.

    ``queues``: by their names, as long as there are jobs in them; ``keys``: by tenant, those of them that are of keys.
    """

    time: float = 0.0
    cost: int = 0
    turns: list[tuple[float, str]] = field(default_factory=list)
    tags: dict[str, float] = field(default_factory=dict)
    paid: dict[str, float] = field(default_factory=dict)
    queues: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    keys: dict[str, set[str]] = field(default_factory=dict)
    due: list[tuple[int, str]] = field(default_factory=list)

    def tag_of(self, tenant: str) -> float:
        """Its start tag; the one that it would get, if it has no job."""
        return self.tags[tenant] if tenant in self.tags else max(self.time, self.paid.get(tenant, self.time))

    def put(self, entry: Entry) -> None:
        """Add a job."""
        if entry.tenant not in self.tags:
            self.move(entry.tenant, self.tag_of(entry.tenant))
            self.paid.pop(entry.tenant, None)
        if entry.key is not None:
            self.keys.setdefault(entry.tenant, set()).add(entry.key)
        insort(self.queues.setdefault(entry.queue, []), (entry.rank, entry.id))
        insort(self.due, (entry.due_at, entry.id))
        self.cost += entry.cost

    def take(self, entry: Entry) -> None:
        """Take a job out that is there."""
        queue = self.queues[entry.queue]
        del queue[bisect_left(queue, (entry.rank, entry.id))]
        del self.due[bisect_left(self.due, (entry.due_at, entry.id))]
        self.cost -= entry.cost
        if not queue:
            del self.queues[entry.queue]
            self.keys.get(entry.tenant, set()).discard(entry.queue)
        if not self.queues_of(entry.tenant):
            self.keys.pop(entry.tenant, None)
            tag = self.tags.pop(entry.tenant)
            del self.turns[bisect_left(self.turns, (tag, entry.tenant))]
            self.paid[entry.tenant] = tag
            self._forget()

    def queues_of(self, name: str) -> list[str]:
        """The names of a tenant's queues, its keys' too, or the one of a key; only those with jobs."""
        return [queue for queue in (name, *self.keys.get(name, ())) if queue in self.queues]

    def move(self, tenant: str, tag: float) -> None:
        """Give a tenant with jobs this start tag."""
        old = self.tags.get(tenant)
        if old is not None:
            del self.turns[bisect_left(self.turns, (old, tenant))]
        self.tags[tenant] = tag
        insort(self.turns, (tag, tenant))

    def correct(self, tenant: str, more: float) -> None:
        """Let a tenant pay ``more``, or less below 0. One without jobs is given no credit."""
        tag = self.tag_of(tenant) + more
        if tenant in self.tags:
            self.move(tenant, tag)
        else:
            self.paid[tenant] = tag
            self._forget()

    def _forget(self) -> None:
        """Drop what no longer matters. Where nobody waits, all begin equal."""
        if not self.turns:
            self.time = max([self.time, *self.paid.values()])
        self.paid = {tenant: tag for tenant, tag in self.paid.items() if tag > self.time}
