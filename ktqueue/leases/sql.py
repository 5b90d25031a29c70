"""Leases on SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from ktqueue.leases.base import Taken
from ktqueue.sql.clock import db_now
from ktqueue.sql.database import Database
from ktqueue.sql.dialects import insert_new
from ktqueue.sql.tables import leases

_this = leases.c.name == sa.bindparam("lease")
_ours = leases.c.holder == sa.bindparam("who")
_until = db_now() + sa.bindparam("ms", type_=sa.BigInteger)
RENEW = sa.update(leases).where(_this, _ours, leases.c.until > db_now()).values(until=_until)
ADD = (
    insert_new(leases)
    .from_select(
        ["name", "holder", "until"],
        sa.select(sa.bindparam("lease", type_=sa.Text), sa.bindparam("who", type_=sa.Text), _until),
    )
    .execution_options(preserve_rowcount=True)
)
TAKE_OVER = (
    sa.update(leases)
    .where(_this, leases.c.until <= db_now())
    .values(holder=sa.bindparam("who", type_=sa.Text), until=_until)
)
RELEASE = sa.delete(leases).where(_this, _ours)
WAYS = ((Taken.KEPT, RENEW), (Taken.FREE, ADD), (Taken.LEFT, TAKE_OVER))


class SqlLeases:
    """Implements `Leases`; see there. The tables must be there. Make it after a fork."""

    def __init__(self, url: str) -> None:
        """``url`` is SQLAlchemy's: ``sqlite:///…`` or ``postgresql+psycopg://…``."""
        self._database = Database(url)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._database.close()

    def take(self, names: Collection[str], holder: str, *, for_ms: int) -> Mapping[str, Taken]:
        """Take or renew each for ``for_ms`` from now; those that are not in the answer are somebody else's."""
        taken: dict[str, Taken] = {}
        with self._database.transaction() as connection:
            # In one order for all, so that no two processes wait for each other.
            for name in sorted(names):
                given = {"lease": name, "who": holder, "ms": for_ms}
                how = next((how for how, way in WAYS if connection.execute(way, given).rowcount > 0), None)
                if how is not None:
                    taken[name] = how
        return taken

    def release(self, names: Collection[str], holder: str) -> None:
        """Let go of those that ``holder`` has."""
        with self._database.transaction() as connection:
            for name in sorted(names):
                connection.execute(RELEASE, {"lease": name, "who": holder})
