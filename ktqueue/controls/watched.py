"""Controls as a process that acts by them sees them: read about twice a second, however often it asks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from threading import Lock

from ktqueue.control import UNCONTROLLED, LaneControl
from ktqueue.controls.base import Controls
from ktqueue.errors import StoreUnavailable

FRESH_S = 0.5

logger = logging.getLogger(__name__)


class WatchedControls:
    """Thread-safe. ``clock`` is in seconds."""

    def __init__(self, controls: Controls, clock: Callable[[], float] = time.monotonic) -> None:
        self._controls = controls
        self._clock = clock
        self._lanes: Mapping[str, LaneControl] | None = None
        self._until = 0.0
        self._lock = Lock()

    def lane(self, model: str) -> LaneControl:
        """What was ordered of a lane, ``FRESH_S`` ago at most.

        While the database is away it is what was read last; raises StoreUnavailable if nothing ever was.
        """
        lanes = self._lanes
        if lanes is None or self._clock() >= self._until:
            with self._lock:
                lanes = self._read()
        return lanes.get(model, UNCONTROLLED)

    def _read(self) -> Mapping[str, LaneControl]:
        if self._lanes is not None and self._clock() < self._until:
            return self._lanes
        try:
            self._lanes = self._controls.lanes()
        except StoreUnavailable as error:
            if self._lanes is None:
                raise
            logger.debug("what was ordered of lanes can't be read: %s", error)
        self._until = self._clock() + FRESH_S
        return self._lanes
