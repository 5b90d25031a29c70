"""A pool of connections to SQLite or PostgreSQL, and the one place where a driver's failure becomes ours."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from ktqueue.breaker import Breaker
from ktqueue.errors import ConfigurationError, StoreUnavailable

log = logging.getLogger(__name__)

SESSION = {
    "sqlite": ("PRAGMA busy_timeout = 5000", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL"),
    "postgresql": (
        "SET lock_timeout = '5s'",
        "SET statement_timeout = '10s'",
        "SET idle_in_transaction_session_timeout = '60s'",
        # A server that hears no more of us gives up when we do: it would keep what we had locked, and us out of it.
        "SET tcp_user_timeout = '4s'",
        "SET tcp_keepalives_idle = '3s'",
        "SET tcp_keepalives_interval = '1s'",
        "SET tcp_keepalives_count = 3",
        # Each statement here has one good plan, whatever its parameters and however old the statistics.
        "SET plan_cache_mode = force_generic_plan",
    ),
}
# What a statement of ours got wrong, in contrast to what befell the database. One that is not migrated yet, SQLite
# calls its own failure and PostgreSQL ours; to a client it is the former.
OURS = (sa.exc.ProgrammingError, sa.exc.DataError, sa.exc.IntegrityError, sa.exc.NotSupportedError)
UNDEFINED_TABLE = "42P01"
# Connection failures, and a server that shuts down or starts up. Whatever else it complains of, it is there.
LOST = ("08", "57P")
TURN_SECONDS = 10.0
SETUP_SECONDS = 5.0
BEGIN = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "BEGIN"}
# Fails while the database would not take our work. SQLite is locked, read-only or full for those who write.
PROBE = {"sqlite": "PRAGMA user_version = 0", "postgresql": "SELECT 1"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "sqlite": {},
    "postgresql": {
        # A server that is gone without a word is noticed in a few seconds, whether we connect,
        "connect_timeout": 3,
        # send (ms without an acknowledgement)
        "tcp_user_timeout": 4_000,
        # or only listen (s).
        "keepalives_idle": 3,
        "keepalives_interval": 1,
        "keepalives_count": 3,
        "prepare_threshold": 0,  # plan at the first use, once a connection
    },
}


class Database:
    """Connections for some 32 threads. Nothing is connected before the first use; make it after a fork.

    While the database is known to be away, calls fail at once: threads that wait for it would starve all the others.
    """

    def __init__(self, url: str) -> None:
        """``url`` is SQLAlchemy's: ``sqlite:///…`` or ``postgresql+psycopg://…``."""
        try:
            kind = sa.make_url(url).get_backend_name()
        except (ValueError, sa.exc.ArgumentError):
            # Not even a part of it may be repeated: where it is misread, that may be of the password.
            raise ConfigurationError(
                "KTQ_DATABASE_URL: can't be read; what is special in a user name or password is percent-encoded"
            ) from None
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
        if kind == "postgresql":
            sa.event.listen(self._engine, "do_connect", _connect_bounded)
        self._probe = PROBE[kind]
        self._breaker = Breaker("the database", self._answers)

    @contextmanager
    def reader(self) -> Iterator[sa.Connection]:
        """For statements that only read, each its own transaction."""
        # SQLite is read even while nobody can write.
        guard: AbstractContextManager[None] = self._guarded() if self._lock is None else nullcontext()
        with _failures_mapped(), guard, self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writer(self) -> Iterator[sa.Connection]:
        """For one statement that writes, its own transaction."""
        with _failures_mapped(), self._turn(), self._guarded(), self._engine.connect() as connection:
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

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Refuse while the database is known to be away, and note when it has gone."""
        if self._breaker.open:
            raise StoreUnavailable("the database is away; try again")
        try:
            yield
        except sa.exc.DBAPIError as error:
            if _says_it_is_away(error):
                self._breaker.trip(error.orig or error)
            raise

    def _answers(self) -> bool:
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql(self._probe)
        except sa.exc.SQLAlchemyError:
            return False
        return True

    def close(self) -> None:
        """Close every idle connection."""
        self._breaker.end()
        self._engine.dispose()


def _to_json(document: object) -> str:
    return orjson.dumps(document).decode()


def _session_setup(statements: tuple[str, ...]) -> Any:
    def connect(connection: PoolProxiedConnection, _record: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        for statement in statements:
            _set_up(cursor, statement)
        cursor.close()

    return connect


def _set_up(cursor: Any, statement: str) -> None:
    """Where several make one SQLite database at once, it does not wait by itself for who changes its journal."""
    until = time.monotonic() + SETUP_SECONDS
    while True:
        try:
            cursor.execute(statement)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(0.02)
        else:
            return


def _connect_bounded(_dialect: object, _record: object, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    from ktqueue.sql.bounded import BoundedConnection  # noqa: PLC0415 - see there

    return BoundedConnection.connect(*arguments, **options)


def _says_it_is_away(error: sa.exc.DBAPIError) -> bool:
    sqlstate = _sqlstate(error)
    return not isinstance(error, OURS) and (sqlstate is None or sqlstate.startswith(LOST))


def _sqlstate(error: sa.exc.SQLAlchemyError) -> str | None:
    """PostgreSQL's code of what it complains of; None if it was not the server that spoke, and of SQLite."""
    return getattr(getattr(error, "orig", None), "sqlstate", None)


@contextmanager
def _failures_mapped() -> Iterator[None]:
    try:
        yield
    except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
        if isinstance(error, OURS) and _sqlstate(error) != UNDEFINED_TABLE:
            raise
        cause = getattr(error, "orig", None) or error
        log.warning("the database failed: %s: %s", type(cause).__name__, cause)
        raise StoreUnavailable("the database did not answer; try again") from error
