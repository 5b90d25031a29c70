"""Which slot computes where: each child of a lane's worker takes one of its places, and has it until it ends."""

from __future__ import annotations

import fcntl
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ktqueue.models import Place

PATIENCE_S = 30.0
"""So long a child waits for the end of the one that it replaces."""
AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Seat:
    """The place that a child has taken, and its number among its worker's."""

    number: int
    place: Place


class NoPlace(Exception):
    """Every place is held by a process that lives: one that was replaced does not end."""


class Places:
    """Made by the parent, before it forks: a nameless file of which each child locks one byte.

    The kernel lets go of a lock when its process ends, however it ends, so whoever comes next finds that place free and
    no other. Locks are a process's own: one that a child starts in turn has none.
    """

    def __init__(self, places: Sequence[Place], *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._places = places
        self._sleep = sleep
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as the worker lives

    def take(self) -> Seat:
        """The first place that nobody has; ask once a child. Raises NoPlace if there is none for ``PATIENCE_S``."""
        for _ in range(round(PATIENCE_S / AGAIN_S)):
            for number, place in enumerate(self._places):
                if self._lock(number):
                    return Seat(number, place)
            self._sleep(AGAIN_S)
        raise NoPlace(f"all {len(self._places)} places are taken")

    def _lock(self, number: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):  # which of them it is differs between systems
            return False
        return True
