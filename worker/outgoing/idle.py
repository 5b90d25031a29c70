"""Connections that wait for their next request."""

from __future__ import annotations

import time
from collections.abc import Collection

from ktqueue.webhook_addresses import Address, Destination
from worker.outgoing.connection import Connection

MOST_IDLE = 256
IDLE_S = 15.0
"""Many servers close a connection after some 5 to 75 s of silence."""

Origin = tuple[str, str, int]


class IdleConnections:
    """By origin, a bounded number in all: those that have waited longest are closed first."""

    def __init__(self, *, most: int = MOST_IDLE, idle_s: float = IDLE_S) -> None:
        self._most = most
        self._idle_s = idle_s
        self._since: dict[Connection, tuple[float, Origin]] = {}  # the oldest first
        self._of: dict[Origin, list[Connection]] = {}

    def __len__(self) -> int:
        return len(self._since)

    def take(self, to: Destination, addresses: Collection[Address]) -> Connection | None:
        """The one used last, for the same scheme, host and port; None if its address is not one of ``addresses``."""
        self._drop_old()
        for connection in reversed(self._of.get(_origin(to), [])):
            if connection.reusable and connection.address in addresses:
                self.forget(connection)
                return connection
        return None

    def put(self, to: Destination, connection: Connection) -> None:
        """Keep it for a while."""
        origin = _origin(to)
        self._since[connection] = time.monotonic(), origin
        self._of.setdefault(origin, []).append(connection)
        self._drop_old()

    def forget(self, connection: Connection) -> None:
        """It is in use again, or of no more use."""
        _, origin = self._since.pop(connection, (0.0, None))
        if origin is None:
            return
        self._of[origin].remove(connection)
        if not self._of[origin]:
            del self._of[origin]

    def close(self) -> None:
        """Close them all."""
        for connection in list(self._since):
            self._drop(connection)

    def _drop_old(self) -> None:
        too_old = time.monotonic() - self._idle_s
        while self._since:
            oldest, (since, _) = next(iter(self._since.items()))
            if len(self._since) <= self._most and since > too_old:
                return
            self._drop(oldest)

    def _drop(self, connection: Connection) -> None:
        self.forget(connection)
        connection.close()


def _origin(to: Destination) -> Origin:
    return to.scheme, to.host, to.port
