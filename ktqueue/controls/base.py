"""Controls: what operators have ordered, durable. Every process looks at them about twice a second.

Any method may raise StoreUnavailable; all are safe to repeat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ktqueue.control import LaneControl, LaneMode


class Controls(Protocol):
    """What was ordered of lanes, by model, and of workers, by their names."""

    def lanes(self) -> Mapping[str, LaneControl]:
        """Every lane of which anything was ever ordered."""

    def set_mode(self, model: str, mode: LaneMode) -> None:
        """Order a lane to be open, paused or draining; its concurrency stays."""

    def set_concurrency(self, model: str, most: int | None) -> None:
        """Let at most so many (1 or more) jobs of a lane run at once, None: any number; its mode stays."""

    def serving(self, worker: str) -> Mapping[str, bool]:
        """Whether a worker is to serve a model, of those models of which that was ever ordered."""

    def move(self, model: str, *, source: str | None, target: str | None) -> None:
        """Order the worker ``source`` not to serve a model, and ``target`` to serve it: both, or neither."""


def orders_of(source: str | None, target: str | None) -> Mapping[str, bool]:
    """What a move orders: by worker, whether it is to serve the model."""
    return {worker: serves for worker, serves in ((source, False), (target, True)) if worker is not None}
