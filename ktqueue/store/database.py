"""A pool of connections to SQLite or PostgreSQL, and the one place where a driver's failure becomes ours."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ktqueue.errors import ConfigurationError, StoreUnavailable

log = logging.getLogger(__name__)

SESSION = {
    "sqlite": ("PRAGMA busy_timeout = 5000", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL"),
    "postgresql": (
        "SET lock_timeout = '5s'",
        "SET statement_timeout = '30s'",
        "SET idle_in_transaction_session_timeout = '60s'",
        # Each statement here has one good plan, whatever its parameters and however old the statistics.
        "SET plan_cache_mode = force_generic_plan",
    ),
}
# What a statement of ours got wrong, in contrast to what befell the database. One that is not migrated yet, SQLite
# calls its own failure and PostgreSQL ours; to a client it is the former.
OURS = (sa.exc.ProgrammingError, sa.exc.DataError, sa.exc.IntegrityError, sa.exc.NotSupportedError)
UNDEFINED_TABLE = "42P01"
TURN_SECONDS = 10.0
BEGIN = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "BEGIN"}
# A server that is gone without a word is noticed in about half a minute.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "sqlite": {},
    "postgresql": {
        "connect_timeout": 5,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "prepare_threshold": 0,  # plan at the first use, once a connection
    },
}


class Database:
    """Connections for some 32 threads. Nothing is connected before the first use; make it after a fork."""

    def __init__(self, url: str) -> None:
        """``url`` is SQLAlchemy's: ``sqlite:///…`` or ``postgresql+psycopg://…``."""
        kind = sa.make_url(url).get_backend_name()
        if kind not in SESSION:
            raise ConfigurationError(f"the database must be SQLite or PostgreSQL, not {kind}")
        self._begin = BEGIN[kind]
        self._lock = threading.Lock() if kind == "sqlite" else None
        self._engine = sa.create_engine(
            url,
            # A statement on its own is its own transaction, without two more round trips.
            isolation_level="AUTOCOMMIT",
            connect_args=ARGUMENTS[kind],
            json_serializer=_to_json,
            json_deserializer=orjson.loads,
            hide_parameters=True,  # what clients sent us is not for logs
            pool_size=16,
            max_overflow=16,
            pool_timeout=5,
            pool_use_lifo=True,
            # A restarted server is noticed before a statement is lost to it.
            pool_pre_ping=kind == "postgresql",
        )
        sa.event.listen(self._engine, "connect", _session_setup(SESSION[kind]))

    @contextmanager
    def reader(self) -> Iterator[sa.Connection]:
        """For statements that only read, each its own transaction."""
        with _failures_mapped(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writer(self) -> Iterator[sa.Connection]:
        """For one statement that writes, its own transaction."""
        with _failures_mapped(), self._turn(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """For statements that belong together; on SQLite it is the only writer. Rolled back by an exception."""
        with self.writer() as connection:
            connection.exec_driver_sql(self._begin)
            yield connection
            connection.commit()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """SQLite lets one write at a time and makes others sleep and ask again, so our threads queue up by themselves.

        16 threads that write without this wait a second and more for some of their turns; with it, at most 0.1 s.
        """
        if self._lock is None:
            yield
            return
        if not self._lock.acquire(timeout=TURN_SECONDS):
            raise StoreUnavailable("the database is busy; try again")
        try:
            yield
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close every idle connection."""
        self._engine.dispose()


def _to_json(document: object) -> str:
    return orjson.dumps(document).decode()


def _session_setup(statements: tuple[str, ...]) -> Any:
    def connect(connection: PoolProxiedConnection, _record: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()

    return connect


@contextmanager
def _failures_mapped() -> Iterator[None]:
    try:
        yield
    except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        if isinstance(error, OURS) and getattr(cause, "sqlstate", None) != UNDEFINED_TABLE:
            raise
        log.warning("the database failed: %s: %s", type(cause).__name__, cause)
        raise StoreUnavailable("the database did not answer; try again") from error
