"""A histogram that takes a whole group at once: a job costs a fraction of a microsecond, not several."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from prometheus_client import Histogram


class GroupHistogram(Histogram):
    """As its base, and `observe_all`."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """The same as `observe` for each of them. Each number that changes is written once."""
        if not amounts:
            return
        bounds = self._upper_bounds
        self._sum.inc(sum(amounts))
        for bucket, count in Counter([bisect_left(bounds, amount) for amount in amounts]).items():
            self._buckets[bucket].inc(count)
