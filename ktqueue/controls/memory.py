"""Controls in this process's memory, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ktqueue.control import UNCONTROLLED, LaneControl, LaneMode
from ktqueue.controls.base import orders_of


class MemoryControls:
    """Implements `Controls`; see there."""

    def __init__(self) -> None:
        self._lanes: dict[str, LaneControl] = {}
        self._serving: dict[str, dict[str, bool]] = {}

    def lanes(self) -> Mapping[str, LaneControl]:
        """Every lane of which anything was ever ordered."""
        return dict(self._lanes)

    def set_mode(self, model: str, mode: LaneMode) -> None:
        """Order a lane to be open, paused or draining; its concurrency stays."""
        self._lanes[model] = replace(self._lanes.get(model, UNCONTROLLED), mode=mode)

    def set_concurrency(self, model: str, most: int | None) -> None:
        """Let at most so many jobs of a lane run at once, None: any number; its mode stays."""
        self._lanes[model] = replace(self._lanes.get(model, UNCONTROLLED), concurrency=most)

    def serving(self, worker: str) -> Mapping[str, bool]:
        """Whether a worker is to serve a model, of those models of which that was ever ordered."""
        return dict(self._serving.get(worker, {}))

    def move(self, model: str, *, source: str | None, target: str | None) -> None:
        """Order one worker not to serve a model, and another to serve it."""
        for worker, serves in orders_of(source, target).items():
            self._serving.setdefault(worker, {})[model] = serves
