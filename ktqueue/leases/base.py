"""Leases: who may use something that only one process at a time may, durable, by the database's clock.

Any method may raise StoreUnavailable; all are safe to repeat.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Protocol


class Taken(StrEnum):
    """How a lease came to be ours: KEPT was ours before, FREE nobody's, LEFT somebody's whose time ran out.

    Whoever let a lease run out may have left things as they were: it did not end in good order.
    """

    KEPT = "kept"
    FREE = "free"
    LEFT = "left"


class Leases(Protocol):
    """Leases by name. A ``holder`` is one process in one life of it, and never comes again."""

    def take(self, names: Collection[str], holder: str, *, for_ms: int) -> Mapping[str, Taken]:
        """Take or renew each for ``for_ms`` from now; those that are not in the answer are somebody else's.

        One's own that has run out is LEFT too: it may have been another's since.
        """

    def release(self, names: Collection[str], holder: str) -> None:
        """Let go of those that ``holder`` has: they are free at once."""
