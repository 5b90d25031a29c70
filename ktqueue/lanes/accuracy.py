"""How far what was foretold of jobs was from what then happened. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 500
"""So many errors of the latest are kept of a lane, and as many jobs of which something is foretold."""
KEPT_MS = 86_400_000
LEAST_MS = 1_000
"""A job that started at once, as was foretold, says nothing; and an error of a short wait is in parts of this."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of ``jobs`` that waited: the error of half of them, and of nine in ten, was at most this part of the wait."""

    p50: float
    p90: float
    jobs: int


def error_of(foretold_ms: int, waited_ms: int) -> float | None:
    """The error as a part of the wait; None for a job that did not have to wait and was not told so."""
    if max(foretold_ms, waited_ms) < LEAST_MS:
        return None
    return abs(foretold_ms - waited_ms) / max(waited_ms, LEAST_MS)


def accuracy_of(errors: Sequence[float]) -> Accuracy | None:
    """None if there are none."""
    if not errors:
        return None
    ordered = sorted(errors)
    return Accuracy(_nearest(ordered, 0.5), _nearest(ordered, 0.9), len(ordered))


def _nearest(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
