"""The database's clock: inside statements, and as a value that is cheap to ask for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement

FRESH_SECONDS = 5.0


class db_now(FunctionElement[int]):  # noqa: N801 - reads as the SQL function it stands for
    """The present in Unix milliseconds. A scalar subquery: one instant for all rows, and fit for an index."""

    inherit_cache = True
    type = sa.BigInteger()


@compiles(db_now, "sqlite")
def _sqlite(_element: db_now, _compiler: SQLCompiler, **_options: Any) -> str:
    # unixepoch('subsec') came with SQLite 3.42. A Julian day in a double is good to 0.05 ms, so it is rounded.
    return "(SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER))"


@compiles(db_now, "postgresql")
def _postgresql(_element: db_now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "(SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT))"


class _Reading(NamedTuple):
    instant: int
    monotonic: float


class Clock:
    """Extrapolates from a reading that is at most ``FRESH_SECONDS`` old. Safe to share between threads.

    A reading is taken to be of the moment its answer arrives, so this clock is never ahead of the database's: what
    is due by this one is due by that one.
    """

    def __init__(self, read: Callable[[], int], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._monotonic = monotonic
        self._last: _Reading | None = None

    def now(self) -> int:
        """Unix milliseconds."""
        last = self._last
        if last is None or self._monotonic() - last.monotonic > FRESH_SECONDS:
            last = self._last = _Reading(self._read(), self._monotonic())
        return last.instant + int((self._monotonic() - last.monotonic) * 1000)
