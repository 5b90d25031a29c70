"""How soon jobs begin to speak, and how long they pause between two words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ktqueue.job import Job


@dataclass(frozen=True, slots=True)
class Spoken:
    """Seconds: from the submission of those that began to speak to now, and since the last word of the others."""

    firsts: Sequence[float]
    pauses: Sequence[float]


class Tempo:
    """Of the jobs in one engine. Instants are seconds of one clock."""

    def __init__(self) -> None:
        self._spoke_at: dict[str, float] = {}

    def spoke(self, jobs: Sequence[tuple[Job, float]], now: float) -> Spoken:
        """Each of these, which ``joined`` the batch at the instant beside it, has new text."""
        firsts: list[float] = []
        pauses: list[float] = []
        for job, joined in jobs:
            before = self._spoke_at.get(job.id)
            if before is None:
                firsts.append(waited_s(job) + now - joined)
            else:
                pauses.append(now - before)
            self._spoke_at[job.id] = now
        return Spoken(firsts, pauses)

    def forget(self, job_id: str) -> None:
        """The job has left the batch."""
        self._spoke_at.pop(job_id, None)

    def clear(self) -> None:
        """Nobody is in it."""
        self._spoke_at.clear()


def waited_s(job: Job) -> float:
    """Seconds that a job which was claimed had waited, from its submission on; by the store's clock."""
    return 0.0 if job.started_at is None else max(0, job.started_at - job.created_at) / 1000
