"""Retention: what ended long ago is deleted, in short transactions with pauses between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ktqueue.outbox.base import Outbox
from ktqueue.store.base import Store

DAY_MS = 86_400_000
LARGEST_GROUP = 500
SMALLEST_GROUP = 10
TURN_S = 0.02
"""How long one group should take: on SQLite every other write waits for it."""
BUDGET_S = 0.25
"""How long one round may take, pauses included."""
ROUND_S = 60.0
"""Between two walks through the store."""


class Retention:
    """Deletes jobs that ended more than ``days`` ago, with their attempts, results, idempotency keys and deliveries.

    It walks through the jobs from the oldest on, a little in each round, and begins anew a while after it came to
    those that are too young. Several at once do no harm.
    """

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        *,
        days: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._keep_ms = days * DAY_MS
        self._clock = clock
        self._sleep = sleep
        self._after = ""
        self._group = LARGEST_GROUP
        self._resume_at = -math.inf

    def __call__(self) -> int:
        """One round: how many jobs were deleted. Raises StoreUnavailable."""
        deleted = 0
        until = self._clock() + BUDGET_S
        while self._resume_at <= (began := self._clock()) < until:
            before = self._store.now() - self._keep_ms
            pruned = self._store.prune(before, after=self._after, limit=self._group)
            deleted += pruned.jobs
            took = self._clock() - began
            self._group = _next_group(self._group, took)
            if pruned.reached is None:
                self._outbox.prune_tests(before, LARGEST_GROUP)
                self._after, self._resume_at = "", self._clock() + ROUND_S
            else:
                self._after = pruned.reached
                # Whoever waits for the database has it in between.
                self._sleep(took)
        return deleted


def _next_group(group: int, took_s: float) -> int:
    """A size that takes about a turn: rows may be large, or the disk busy."""
    fitting = int(group * TURN_S / took_s) if took_s > TURN_S else group * 2
    return max(SMALLEST_GROUP, min(LARGEST_GROUP, fitting))
