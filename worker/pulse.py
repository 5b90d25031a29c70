"""The pulse of a slot: how its engine and its devices do, looked at each time the slot says that it lives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psutil

from ktqueue.presence.base import Pulse
from worker.engines.base import Vitals
from worker.engines.device_use import DeviceUse
from worker.metrics import LaneMetrics, Work


def resident_bytes() -> int:
    """The memory that this process holds."""
    held: int = psutil.Process().memory_info().rss
    return held


class PulseTaker:
    """Looks from the herald's thread, so that no step waits for it. Rates are of the time between two looks.

    ``clock`` is in seconds.
    """

    def __init__(
        self,
        vitals: Callable[[], Vitals],
        devices: Callable[[], Sequence[DeviceUse]],
        metrics: LaneMetrics,
        *,
        resident: Callable[[], int] = resident_bytes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._vitals = vitals
        self._devices = devices
        self._metrics = metrics
        self._resident = resident
        self._clock = clock
        self._before = clock(), Vitals(), Work()

    def look(self) -> Pulse:
        """Count what is new, and tell how it goes."""
        now, vitals, work = self._clock(), self._vitals(), self._metrics.work()
        devices = self._devices()
        self._metrics.vitals(vitals)
        for use in devices:
            self._metrics.device(use)
        (then, were, worked), self._before = self._before, (now, vitals, work)
        seconds, steps = max(now - then, 1e-3), work.steps - worked.steps
        return Pulse(
            prompt_tokens_s=(vitals.prompt_tokens - were.prompt_tokens) / seconds,
            generated_tokens_s=(vitals.generated_tokens - were.generated_tokens) / seconds,
            busy=min(1.0, (work.seconds - worked.seconds) / seconds),
            batch=(work.jobs - worked.jobs) / steps if steps else 0.0,
            blocks=vitals.blocks,
            blocks_used=vitals.blocks_used,
            resident_bytes=self._resident(),
            device_bytes=sum(use.total_bytes for use in devices),
            device_used_bytes=sum(use.used_bytes for use in devices),
        )
