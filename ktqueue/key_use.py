"""Which keys are used, written down behind the requests' back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock, Thread

from ktqueue.errors import StoreUnavailable
from ktqueue.registry.base import Registry

AT_MOST_EVERY_S = 60.0
"""How exact `last_used_at` is."""
GATHER_S = 1.0

logger = logging.getLogger(__name__)


def _in_a_thread(work: Callable[[], None]) -> None:
    Thread(target=work, name="key-use", daemon=True).start()


class KeyUse:
    """Notes each key at most once a minute, many in one write. A thread lives while there is something to write."""

    def __init__(
        self,
        registry: Registry,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        start: Callable[[Callable[[], None]], None] = _in_a_thread,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._sleep = sleep
        self._start = start
        self._next: dict[str, float] = {}
        self._pending: set[str] = set()
        self._writing = False
        self._lock = Lock()

    def __call__(self, key_id: str) -> None:
        """A key was let in."""
        now = self._clock()
        if now < self._next.get(key_id, 0.0):
            return
        with self._lock:
            self._next[key_id] = now + AT_MOST_EVERY_S
            self._pending.add(key_id)
            begin, self._writing = not self._writing, True
        if begin:
            self._start(self._write)

    def _write(self) -> None:
        while True:
            self._sleep(GATHER_S)
            with self._lock:
                ids, self._pending = sorted(self._pending), set()
                if not ids:
                    self._writing = False
                    return
            try:
                self._registry.used_keys(ids)
            except StoreUnavailable as error:
                logger.debug("the use of %d keys is not written down: %s", len(ids), error)
