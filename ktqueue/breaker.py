"""A breaker: spares callers the wait for a server that is known to be away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Event, Lock, Thread

PAUSE_S = 0.25

logger = logging.getLogger(__name__)


class Breaker:
    """Open after a failure, until ``answers()`` is true again; while it is open, callers had better not try.

    A thread that lives as long as the outage asks every ``pause_s``, so no caller pays for the question. Thread-safe.
    Make it after a fork.
    """

    def __init__(self, server: str, answers: Callable[[], bool], *, pause_s: float = PAUSE_S) -> None:
        self._server = server
        self._answers = answers
        self._pause_s = pause_s
        self._lock = Lock()
        self._open = False
        self._ended = Event()

    @property
    def open(self) -> bool:
        """Whether the server is away."""
        return self._open

    def trip(self, error: BaseException) -> None:
        """Open it: ``error`` says that the server did not do its work."""
        with self._lock:
            if self._open or self._ended.is_set():
                return
            self._open = True
        logger.warning("%s is away: %s", self._server, error)
        Thread(target=self._watch, name=f"watch {self._server}", daemon=True).start()

    def _watch(self) -> None:
        began = time.monotonic()
        try:
            while not self._ended.wait(self._pause_s) and not self._answers():
                pass
        finally:
            # Even if asking itself went wrong: callers then find out for themselves.
            self._open = False
        if not self._ended.is_set():
            logger.warning("%s is back after %.1f s", self._server, time.monotonic() - began)

    def end(self) -> None:
        """Ask no more, and never open again."""
        self._ended.set()
