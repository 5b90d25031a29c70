"""Who made a process die, when nobody can tell: suspects run again in ever smaller company. Pure.

A process that dies, or stops answering, takes along all jobs that shared it, and says nothing. They run again with an
eighth as many beside them, those that die again with an eighth of that, until the culprit is alone. Only then is an
attempt charged: whoever was merely near is charged none. An eighth and not a half, because a crash costs a process
and the loading of a model, and a small batch costs little.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ktqueue.job import ENGINE_CRASHED, Job, JobError, JobState, Verdict, fence_of
from ktqueue.retry import Backoff, retry_at

SHRINK = 8


def blame(jobs: Iterable[Job], fault: JobError, *, now: int, backoff: Backoff, jitter: float) -> list[Verdict]:
    """What becomes of running jobs whose processes are gone; those of one token died together.

    ``now`` is in Unix ms, ``jitter`` uniform in [0, 1). ``fault`` is what the attempts are told to have ended with.
    """
    together: defaultdict[str | None, list[Job]] = defaultdict(list)
    for job in jobs:
        together[job.token].append(job)
    return [
        verdict
        for suspects in together.values()
        for verdict in _verdicts(suspects, fault, now=now, backoff=backoff, jitter=jitter)
    ]


def _verdicts(suspects: Sequence[Job], fault: JobError, *, now: int, backoff: Backoff, jitter: float) -> list[Verdict]:
    if len(suspects) > 1:
        company = max(1, len(suspects) // SHRINK)
        return [_again(job, fault, company=company, charged=False) for job in suspects]
    job = suspects[0]
    run_at = retry_at(job, fault, now=now, backoff=backoff, jitter=jitter)
    if run_at is None:
        return [Verdict(fence_of(job), JobState.FAILED, error=ENGINE_CRASHED)]
    return [_again(job, fault, company=1, run_at=run_at)]


def _again(job: Job, fault: JobError, *, company: int, charged: bool = True, run_at: int | None = None) -> Verdict:
    return Verdict(fence_of(job), JobState.QUEUED, error=fault, charged=charged, company=company, run_at=run_at)
