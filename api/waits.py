"""The places for requests that wait. A wait holds a thread, so there are only so many: the others stay served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore


class Waits:
    """Places in this process."""

    def __init__(self, places: int) -> None:
        self._free = BoundedSemaphore(places)

    def take(self) -> bool:
        """Whether there was a place; whoever got one gives it back."""
        return self._free.acquire(blocking=False)

    def give_back(self) -> None:
        """Free a place that was taken."""
        self._free.release()

    @contextmanager
    def place(self) -> Iterator[bool]:
        """A place for as long as the block runs, if there is one."""
        taken = self.take()
        try:
            yield taken
        finally:
            if taken:
                self.give_back()
