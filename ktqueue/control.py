"""What operators have ordered of a lane: a value. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class LaneMode(StrEnum):
    """OPEN takes jobs and runs them. PAUSED takes and keeps them. DRAINING takes none, and runs what it has."""

    OPEN = "open"
    PAUSED = "paused"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class LaneControl:
    """``concurrency`` is the most jobs that may run at once, over all slots of the lane; None: as many as fit."""

    mode: LaneMode = LaneMode.OPEN
    concurrency: int | None = None

    @property
    def most_claimed(self) -> int | None:
        """The most jobs that may run while more are claimed; None: any number."""
        return 0 if self.mode is LaneMode.PAUSED else self.concurrency


UNCONTROLLED = LaneControl()
"""A lane of which nothing was ordered."""
