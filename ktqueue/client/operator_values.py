"""What the API answers operators, as frozen values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from ktqueue.client.values import Instance, Value
from ktqueue.presence.base import SlotState


class WorkerCapacity(Value):
    """What a slot holds at once; see `Capacity`."""

    jobs: int
    cache_tokens: int | None = None
    block_tokens: int | None = None


class Pulse(Value):
    """How a slot did in its last heartbeat, and how it is now.

    ``busy`` is the part of the time in steps (0-1), ``batch`` the jobs in a step on average. What it has none of is 0.
    """

    prompt_tokens_per_second: float = 0.0
    generated_tokens_per_second: float = 0.0
    busy: float = 0.0
    batch: float = 0.0
    cache_blocks: int = 0
    cache_blocks_used: int = 0
    memory_bytes: int = 0
    device_memory_bytes: int = 0
    device_memory_used_bytes: int = 0


class Worker(Value):
    """A slot that lives: one process that holds one model. ``name`` is the one that attempts tell.

    While its ``state`` is ``starting``, its ``capacity`` is not known.
    """

    name: str
    worker: str = ""
    """Whose slot it is; see `Roster`."""
    host: str
    pid: int | None = None
    model: str
    state: SlotState = SlotState.READY
    slot: int = 0
    device: str
    capacity: WorkerCapacity | None = None
    running: int
    instances: Sequence[Instance] = ()
    """The servers that it passes jobs on to, if it has any."""
    pulse: Pulse = Pulse()
    ready_at: datetime | None = None
    heartbeat_at: datetime


class Roster(Value):
    """The models that a worker is to serve, and those that it ``offers``: they can be moved to it."""

    worker: str
    host: str
    models: Sequence[str]
    offers: Sequence[str]
    heartbeat_at: datetime


class UsageDay(Value):
    """What one tenant's jobs of one model used that ended on one day (UTC)."""

    day: date
    tenant: str
    model: str
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    prompt_tokens: int
    completion_tokens: int
    device_seconds: float


class Purge(Value):
    """How many queued jobs a purge cancelled, or would cancel (``dry_run``), and how many are still to be."""

    model: str
    dry_run: bool
    jobs: int
    remaining: int
