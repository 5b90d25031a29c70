"""Instants between Unix milliseconds inside and RFC 3339 outside."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

RFC_3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})",
    re.ASCII,
)
EARLIEST, LATEST = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999 in UTC: what can be told again. An offset reaches beyond them, and so does a rounded fraction."""


def rfc3339(instant: int) -> str:
    """In UTC, to the millisecond."""
    # In whole numbers: far from now a float does not hold milliseconds.
    seconds, ms = divmod(instant, 1000)
    return f"{_to_the_second(seconds)}.{ms:03}Z"


@lru_cache(maxsize=1024)
def _to_the_second(seconds: int) -> str:
    """Most that is told happened of late, and so in the same few seconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def unix_ms(text: object) -> int:
    """From RFC 3339 with its offset. Raises ValueError."""
    if isinstance(text, str) and RFC_3339.fullmatch(text):
        try:
            # Upper case, because fromisoformat takes no 'z'.
            instant = round(datetime.fromisoformat(text.upper()).timestamp() * 1000)
        except ValueError as error:
            raise ValueError(f"is no time: {error}") from error
        if not EARLIEST <= instant <= LATEST:
            raise ValueError("must be in the years 1 to 9999 in UTC")
        return instant
    raise ValueError("must be an RFC 3339 time with an offset, like 2030-01-31T12:00:00Z")
