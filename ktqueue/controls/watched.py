"""Controls as a process that acts by them sees them."""

from __future__ import annotations

import time
from collections.abc import Callable

from ktqueue.control import UNCONTROLLED, LaneControl
from ktqueue.controls.base import Controls
from ktqueue.watched import Watched


class WatchedControls:
    """Thread-safe. ``clock`` is in seconds."""

    def __init__(self, controls: Controls, clock: Callable[[], float] = time.monotonic) -> None:
        self._lanes = Watched(controls.lanes, clock)

    def lane(self, model: str) -> LaneControl:
        """What was ordered of a lane, half a second ago at most.

        While the database is away it is what was read last; raises StoreUnavailable if nothing ever was.
        """
        return self._lanes().get(model, UNCONTROLLED)
