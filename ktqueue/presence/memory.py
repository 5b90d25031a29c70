"""Presence in this process's memory, for tests."""

from __future__ import annotations

from collections.abc import Callable

from ktqueue.presence.base import Seen, SeenWorker, Slot, Worker


class MemoryPresence:
    """Implements `Presence`; see there. ``clock()`` is Unix milliseconds."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._told: dict[str, tuple[Slot, int, int]] = {}
        self._workers: dict[str, tuple[Worker, int, int]] = {}

    def tell(self, slot: Slot, *, for_ms: int) -> None:
        """Leave word of a slot; it is forgotten after ``for_ms``."""
        now = self._clock()
        self._told[slot.name] = slot, now, now + for_ms

    def slots(self) -> list[Seen]:
        """Every slot that told of late, by model and name."""
        now = self._clock()
        living = [Seen(slot, now - at) for slot, at, until in self._told.values() if now < until]
        return sorted(living, key=lambda seen: (seen.slot.model, seen.slot.name))

    def tell_worker(self, worker: Worker, *, for_ms: int) -> None:
        """Leave word of a worker; it is forgotten after ``for_ms``."""
        now = self._clock()
        self._workers[worker.name] = worker, now, now + for_ms

    def workers(self) -> list[SeenWorker]:
        """Every worker that told of late, by name."""
        now = self._clock()
        living = [SeenWorker(worker, now - at) for worker, at, until in self._workers.values() if now < until]
        return sorted(living, key=lambda seen: seen.worker.name)
