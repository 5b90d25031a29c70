"""Rates: how much of something was spent in the last minute, over all processes. What is counted may be forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

WINDOW_S = 60


@dataclass(frozen=True, slots=True)
class Left:
    """What may still be spent now, and in how many whole seconds there is more."""

    remaining: int
    reset_s: int


class RateCounters(Protocol):
    """Counters with a window that slides."""

    def spend(self, name: str, most: int, cost: int) -> bool:
        """Spend ``cost`` of ``most`` in a minute, or nothing; whether it was spent. Raises LanesUnavailable."""

    def left(self, name: str, most: int) -> Left:
        """What is left of ``most``. Raises LanesUnavailable."""
