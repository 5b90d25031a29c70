"""What others change and a process acts by: read about twice a second, however often it is asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from ktqueue.errors import StoreUnavailable

FRESH_S = 0.5

Value = TypeVar("Value")
logger = logging.getLogger(__name__)


class Watched(Generic[Value]):
    """What ``read()`` gave ``FRESH_S`` ago at most. Thread-safe. ``clock`` is in seconds."""

    def __init__(self, read: Callable[[], Value], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._last: tuple[Value, float] | None = None
        self._lock = Lock()

    def __call__(self) -> Value:
        """While the database is away it is what was read last; raises StoreUnavailable if nothing ever was."""
        last = self._last
        if last is not None and self._clock() < last[1]:
            return last[0]
        with self._lock:
            return self._look()

    def _look(self) -> Value:
        last = self._last
        if last is not None and self._clock() < last[1]:
            return last[0]
        try:
            value = self._read()
        except StoreUnavailable as error:
            if last is None:
                raise
            logger.debug("what was read before still holds: %s", error)
            value = last[0]
        self._last = value, self._clock() + FRESH_S
        return value
