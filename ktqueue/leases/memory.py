"""Leases in this process's memory, for tests and for engines that nobody shares instances with."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from threading import Lock

from ktqueue.leases.base import Taken


class MemoryLeases:
    """Implements `Leases`; see there. Thread-safe; ``clock`` is in ms."""

    def __init__(self, clock: Callable[[], int] = lambda: time.monotonic_ns() // 1_000_000) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, int]] = {}
        self._lock = Lock()

    def take(self, names: Collection[str], holder: str, *, for_ms: int) -> Mapping[str, Taken]:
        """Take or renew each for ``for_ms`` from now; those that are not in the answer are somebody else's."""
        with self._lock:
            now = self._clock()
            taken = {name: how for name in names if (how := self._would_be(name, holder, now)) is not None}
            self._held |= dict.fromkeys(taken, (holder, now + for_ms))
        return taken

    def release(self, names: Collection[str], holder: str) -> None:
        """Let go of those that ``holder`` has."""
        with self._lock:
            for name in names:
                if name in self._held and self._held[name][0] == holder:
                    del self._held[name]

    def _would_be(self, name: str, holder: str, now: int) -> Taken | None:
        if name not in self._held:
            return Taken.FREE
        other, until = self._held[name]
        if until <= now:
            return Taken.LEFT
        return Taken.KEPT if other == holder else None
