"""psycopg's connection with a bound on every wait. Imported when it is first used: SQLite does without its 10 MB."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.abc import RV, PQGen


class BoundedConnection(psycopg.Connection[Any]):
    """Keepalives notice a network that is dead; a server that is alive and says nothing is given up on here."""

    answer_s = 15.0
    """More than a statement may take: the server ends that itself, unless it is frozen, or a proxy stands before it."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As psycopg's. A connection on which the server did not answer is closed: its state is unknown."""
        try:
            return super().wait(gen, interval, timeout or self.answer_s)
        except psycopg.OperationalError as error:
            if error.sqlstate is None:
                self.close()
            raise
