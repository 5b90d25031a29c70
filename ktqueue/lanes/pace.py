"""How fast a lane finishes jobs: counts per span of time in, jobs per second out. Pure."""

from __future__ import annotations

from collections.abc import Mapping

SPAN_S = 5
SPANS = 12
"""A minute is looked back on."""


def span_of(now_ms: int) -> int:
    """Which span an instant (Unix ms) falls in."""
    return now_ms // (SPAN_S * 1000)


def pace(finished: Mapping[int, int], now_ms: int) -> float | None:
    """Jobs per second over the last minute, or since a younger lane's first span; None if none finished.

    ``finished`` counts jobs by span. Below one span a whole one is taken: better too slow than a guess.
    """
    present = span_of(now_ms)
    lately = {span: jobs for span, jobs in finished.items() if present - SPANS < span <= present}
    if not lately:
        return None
    covered_s = now_ms / 1000 - min(lately) * SPAN_S
    return sum(lately.values()) / max(covered_s, SPAN_S)
