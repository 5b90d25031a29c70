"""Whose a job is: to everybody else there is no such job. Pure."""

from __future__ import annotations

from ktqueue.errors import NotFound
from ktqueue.job import Job


def owned(job: Job | None, job_id: str, tenant: str) -> Job:
    """``job``, if there is one and it is ``tenant``'s. Raises NotFound, in the same words for either."""
    if job is None or job.tenant != tenant:
        raise NotFound(f"there is no job {job_id}")
    return job
