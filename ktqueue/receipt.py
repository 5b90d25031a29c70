"""A job's receipt: how long it waited and ran in each attempt, and what it had of the steps. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ktqueue.job import Attempt, Job


@dataclass(frozen=True, slots=True)
class Leg:
    """One attempt, the milliseconds that the job had waited for it since the one before, and those it ran."""

    attempt: Attempt
    queued_ms: int
    run_ms: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """All attempts at a job, oldest first, and their sums; ``queued_ms`` has the wait after the last of them, too.

    ``device_s`` adds up what is known, also of attempts that are not billed.
    """

    job: Job
    legs: Sequence[Leg]
    queued_ms: int
    run_ms: int
    device_s: float


def receipt_of(job: Job, attempts: Sequence[Attempt], now: int) -> Receipt:
    """The receipt so far: what goes on still has lasted until ``now``, Unix ms."""
    legs: list[Leg] = []
    since = job.created_at
    for attempt in attempts:
        ended = now if attempt.ended_at is None else attempt.ended_at
        legs.append(Leg(attempt, max(0, attempt.started_at - since), max(0, ended - attempt.started_at)))
        since = ended
    until = now if job.finished_at is None else job.finished_at
    return Receipt(
        job,
        legs,
        queued_ms=sum(leg.queued_ms for leg in legs) + max(0, until - since),
        run_ms=sum(leg.run_ms for leg in legs),
        device_s=sum(leg.attempt.device_s or 0.0 for leg in legs),
    )
