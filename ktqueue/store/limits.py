"""Of jobs whose owners may have only so many more run: which. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def as_many_as_may(jobs: Iterable[tuple[str, Sequence[str]]], left: Mapping[str, int]) -> list[str]:
    """Of jobs, each with its owners, the ids of the first that may run; ``left`` of owners that are bounded."""
    left, within = dict(left), []
    for job_id, owners in jobs:
        bounded = [owner for owner in owners if owner in left]
        if all(left[owner] > 0 for owner in bounded):
            within.append(job_id)
            for owner in bounded:
                left[owner] -= 1
    return within


def left_of(limits: Mapping[str, int], running: Mapping[str, int]) -> dict[str, int]:
    """How many more may run, by owner."""
    return {owner: most - running.get(owner, 0) for owner, most in limits.items()}
