"""Whether and when a failed attempt is tried again. Pure: values in, a decision out."""

from __future__ import annotations

from dataclasses import dataclass

from ktqueue.job import Job, JobError


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS, 2015)."""

    base_ms: int = 1_000
    cap_ms: int = 60_000

    def delay_ms(self, attempt: int, jitter: float) -> int:
        """How long to wait after the ``attempt``-th attempt failed; ``jitter`` is uniform in [0, 1)."""
        ceiling = min(self.cap_ms, self.base_ms * 2 ** min(attempt - 1, 30))
        return int(ceiling * jitter)


def retry_at(job: Job, error: JobError, *, now: int, backoff: Backoff, jitter: float) -> int | None:
    """When to try ``job`` again (Unix ms), or None if the error is final."""
    if not error.retryable or job.attempt >= job.max_attempts:
        return None
    return now + backoff.delay_ms(job.attempt, jitter)
