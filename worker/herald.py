"""The herald: says again and again that this slot lives, also while it waits for a bell and no loop runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ktqueue.errors import LanesUnavailable
from ktqueue.presence.base import MISSED, Presence, Slot

logger = logging.getLogger(__name__)


class Herald:
    """``describe`` gives the slot as it is now; it is told every ``every_s``. Make it after a fork."""

    def __init__(
        self,
        presence: Presence,
        describe: Callable[[], Slot],
        *,
        every_s: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._presence = presence
        self._describe = describe
        self._every_s = every_s
        self._sleep = sleep
        self._stopped = False
        self._telling = threading.Lock()

    def start(self) -> None:
        """Tell from a thread of its own, for as long as this process lives or until it is stopped."""
        threading.Thread(target=self.run, name="herald", daemon=True).start()

    def run(self) -> None:
        """Tell until the process ends or this is stopped."""
        while not self._stopped:
            self.tell()
            self._sleep(self._every_s)

    def stop(self) -> None:
        """Tell no more, also what a thread is about to tell; what was told last is forgotten by and by."""
        with self._telling:
            self._stopped = True

    def tell(self) -> None:
        """Once. Best effort: it is told again. Whichever thread it is told from, what is newer is told later."""
        try:
            with self._telling:
                if self._stopped:
                    return
                self._presence.tell(self._describe(), for_ms=int(MISSED * self._every_s * 1000))
        except LanesUnavailable as error:
            logger.debug("nobody is told that this slot lives: %s", error)
