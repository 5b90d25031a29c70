"""Controls: what operators have ordered, durable. Every process looks at them about twice a second.

Any method may raise StoreUnavailable; all are safe to repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ktqueue.control import LaneControl, LaneMode


class Controls(Protocol):
    """What was ordered of lanes, by model."""

    def lanes(self) -> Mapping[str, LaneControl]:
        """Every lane of which anything was ever ordered."""

    def set_mode(self, model: str, mode: LaneMode) -> None:
        """Order a lane to be open, paused or draining; its concurrency stays."""

    def set_concurrency(self, model: str, most: int | None) -> None:
        """Let at most so many (1 or more) jobs of a lane run at once, None: any number; its mode stays."""
