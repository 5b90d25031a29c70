"""Who runs next: a job's rank is its score in the lane, and the smaller rank runs sooner. Pure.

A rank is fixed when the job becomes due, so a lane is a sorted set and needs no re-sorting. A step of priority is
worth a head start of ``HEAD_START_MS``: among jobs that wait, the higher priority goes first, and yet a job of
priority 0 is overtaken only by what comes within nine head starts after it, so nothing starves.
"""

from __future__ import annotations

HIGHEST_PRIORITY = 9
DEFAULT_PRIORITY = 5
HEAD_START_MS = 60_000


def rank(due_at: int, priority: int) -> float:
    """The rank of a job that is due at ``due_at`` (Unix ms). Exact in a double until the year 287,396."""
    return float(due_at + (HIGHEST_PRIORITY - priority) * HEAD_START_MS)
