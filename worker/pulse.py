"""The pulse of a slot: how its engine and its devices do, looked at each time the slot says that it lives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from worker.engines.base import Vitals
from worker.engines.device_use import DeviceUse
from worker.metrics import LaneMetrics


class Pulse:
    """Looks from the herald's thread, so that no step waits for it."""

    def __init__(
        self, vitals: Callable[[], Vitals], devices: Callable[[], Sequence[DeviceUse]], metrics: LaneMetrics
    ) -> None:
        self._vitals = vitals
        self._devices = devices
        self._metrics = metrics

    def look(self) -> None:
        """Once."""
        self._metrics.vitals(self._vitals())
        for use in self._devices():
            self._metrics.device(use)
