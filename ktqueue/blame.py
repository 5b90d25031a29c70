"""Who made a process die, when nobody can tell: suspects run again in ever smaller company. Pure.

A process that dies, or stops answering, takes along all jobs that shared it, and says nothing. Most die for reasons of
their own, so all of them run again as if nothing had been. Whoever was there an eighth time in a row is a suspect.
Suspects run apart from everyone else, in groups of 512, of 64, of 8, until the culprit is alone. Only a suspect that
dies alone is charged an attempt. Groups shrink to an eighth and not to a half, because a crash costs a process and the
loading of a model, and a small batch costs little. Their sizes are fixed so that suspects of several crashes can run
together: each group waits for the one before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ktqueue.job import ENGINE_CRASHED, Job, JobError, JobState, Verdict, fence_of
from ktqueue.retry import Backoff, retry_at

SHRINK = 8
FREE = 7
"""So many crashes in a row make nobody a suspect. With fewer, suspects of chance got in the way of each other while
processes were killed from outside every two seconds; with more, a culprit costs too many. docs/decisions.md has the
figures."""


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


def _verdicts(together: Sequence[Job], fault: JobError, *, now: int, backoff: Backoff, jitter: float) -> list[Verdict]:
    suspects = [job for job in together if job.crashes >= FREE]
    others = [_again(job, fault, charged=False) for job in together if job.crashes < FREE]
    if len(together) == len(suspects) == 1:
        return [_alone(suspects[0], fault, now=now, backoff=backoff, jitter=jitter)]
    company = _company(len(suspects))
    return others + [_again(job, fault, charged=False, company=company) for job in suspects]


def _company(suspects: int) -> int:
    """The largest power of ``SHRINK`` below so many; alone it is 1."""
    company = 1
    while company * SHRINK < suspects:
        company *= SHRINK
    return company


def _alone(job: Job, fault: JobError, *, now: int, backoff: Backoff, jitter: float) -> Verdict:
    run_at = retry_at(job, fault, now=now, backoff=backoff, jitter=jitter)
    if run_at is None:
        return Verdict(fence_of(job), JobState.FAILED, error=ENGINE_CRASHED)
    return _again(job, fault, charged=True, company=1, run_at=run_at)


def _again(
    job: Job, fault: JobError, *, charged: bool, company: int | None = None, run_at: int | None = None
) -> Verdict:
    return Verdict(
        fence_of(job),
        JobState.QUEUED,
        error=fault,
        run_at=run_at,
        charged=charged,
        company=company,
        crashes=job.crashes + 1,
    )
