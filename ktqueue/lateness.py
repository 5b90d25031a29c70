"""Whether a job that waits can still make its deadline. Pure."""

from __future__ import annotations


def too_late(deadline_at: int | None, cost: int, now: int, least_ms_each: float) -> bool:
    """Whether a job would miss it though it began at ``now`` (Unix ms).

    ``least_ms_each`` is how long a run takes at least for each unit of its cost, 0 where nobody knows. Databases are
    asked the same in their own words.
    """
    return deadline_at is not None and deadline_at <= now + cost * least_ms_each
