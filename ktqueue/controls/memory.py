"""Controls in this process's memory, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ktqueue.control import UNCONTROLLED, LaneControl, LaneMode


class MemoryControls:
    """Implements `Controls`; see there."""

    def __init__(self) -> None:
        self._lanes: dict[str, LaneControl] = {}

    def lanes(self) -> Mapping[str, LaneControl]:
        """Every lane of which anything was ever ordered."""
        return dict(self._lanes)

    def set_mode(self, model: str, mode: LaneMode) -> None:
        """Order a lane to be open, paused or draining; its concurrency stays."""
        self._lanes[model] = replace(self._lanes.get(model, UNCONTROLLED), mode=mode)

    def set_concurrency(self, model: str, most: int | None) -> None:
        """Let at most so many jobs of a lane run at once, None: any number; its mode stays."""
        self._lanes[model] = replace(self._lanes.get(model, UNCONTROLLED), concurrency=most)
