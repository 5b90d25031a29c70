"""Whether a lane takes more: decided before anything is stored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from ktqueue.errors import LanesUnavailable, QueueFull
from ktqueue.lanes.base import Lanes
from ktqueue.store.base import Store

REFRESH_S = 0.25
LONGEST_RETRY_AFTER_S = 60


@dataclass(slots=True)
class _Gauge:
    read_at: float
    depth: int
    rate: float | None


class Admission:
    """Keeps each lane at or under ``max_queued`` waiting jobs, give or take what arrives within a refresh."""

    def __init__(
        self, store: Store, lanes: Lanes, *, max_queued: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._max_queued = max_queued
        self._clock = clock
        self._gauges: dict[tuple[str, bool], _Gauge] = {}

    def admit(self, model: str, jobs: int, *, scheduled: bool = False) -> None:
        """Count ``jobs`` more in, or raise QueueFull with the time in which the lane makes room for them.

        Jobs ``scheduled`` for later are in no lane yet: the store counts them, together with those that wait.
        """
        gauge = self._gauge(model, scheduled)
        excess = gauge.depth + jobs - self._max_queued
        if excess > 0:
            seconds = math.ceil(excess / gauge.rate) if gauge.rate else LONGEST_RETRY_AFTER_S
            raise QueueFull(
                f"{gauge.depth} jobs wait for {model!r}; {self._max_queued} may",
                retry_after_s=min(LONGEST_RETRY_AFTER_S, max(1, seconds)),
            )
        gauge.depth += jobs

    def wait_s(self, model: str) -> float | None:
        """How long what was admitted last may wait for its turn, by the last reading; None is 'unknown'."""
        gauge = self._gauges.get((model, False))
        return gauge.depth / gauge.rate if gauge is not None and gauge.rate else None

    def _gauge(self, model: str, scheduled: bool) -> _Gauge:
        now = self._clock()
        gauge = self._gauges.get((model, scheduled))
        if gauge is None or now - gauge.read_at > REFRESH_S:
            depth, rate = self._stored(model) if scheduled else self._waiting(model)
            gauge = self._gauges[model, scheduled] = _Gauge(now, depth, rate)
        return gauge

    def _waiting(self, model: str) -> tuple[int, float | None]:
        try:
            view = self._lanes.view(model)
        except LanesUnavailable:
            # Without Redis the store still knows how much waits; the bound holds through an outage.
            return self._stored(model)
        return view.depth, view.rate

    def _stored(self, model: str) -> tuple[int, None]:
        return next((lane.queued for lane in self._store.census() if lane.model == model), 0), None
