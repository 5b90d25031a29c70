"""What tenants and keys have of what their limits bound, as one process counts it.

It is counted in the store now and then, and what this process let in since is added: so it is right give or take what
others let in meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ktqueue.store.base import Census

COUNTED_S = 1.0
COUNTING_SHARE = 20
"""Counting a large backlog takes long; it is done for at most one part of the time in so many."""


@dataclass(frozen=True, slots=True)
class Used:
    """What a tenant, or a key, has of what its limits of these names bound."""

    queued_jobs: int
    unfinished_jobs: int
    queued_bytes: int
    stored_bytes: int
    running_jobs: int


def used_of(census: Census, jobs: int = 0, size: int = 0) -> Used:
    """What was counted, and ``jobs`` of ``size`` bytes that were let in since."""
    queued = census.queued + jobs
    return Used(queued, queued + census.running, census.size + size, census.stored + size, census.running)


class Counted:
    """Counts with ``census``, which may raise StoreUnavailable. Not thread-safe. ``clock`` is in seconds."""

    def __init__(self, census: Callable[[], Sequence[Census]], clock: Callable[[], float]) -> None:
        self._census = census
        self._clock = clock
        self._until = 0.0
        self._counted: Mapping[str, Census] = {}
        self._jobs: Counter[str] = Counter()
        self._size: Counter[str] = Counter()

    def used(self, name: str) -> Used:
        """What this tenant, or this key, has by now. Raises StoreUnavailable."""
        began = self._clock()
        if began >= self._until:
            self._counted = {census.whose: census for census in self._census()}
            self._jobs, self._size = Counter(), Counter()
            now = self._clock()
            self._until = now + max(COUNTED_S, COUNTING_SHARE * (now - began))
        return used_of(self._counted.get(name) or Census(name), self._jobs[name], self._size[name])

    def let_in(self, name: str, jobs: int, size: int) -> None:
        """Add so many jobs of so many bytes."""
        self._jobs[name] += jobs
        self._size[name] += size
