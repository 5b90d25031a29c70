"""Whether and when a failed attempt is tried again."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ktqueue.job import Job, JobError, Task
from ktqueue.retry import Backoff, retry_at

NOW = 1_750_000_000_000
JOB = Job(id="job_1", model="echo", task=Task.ECHO, input={}, params={}, created_at=0, rank=0.0, attempt=1)
PASSING = JobError("busy", "try again", retryable=True)
FINAL = JobError("bad", "never", retryable=False)

JITTERS = st.floats(0, 1, exclude_max=True)
BACKOFFS = st.builds(Backoff, base_ms=st.integers(1, 10_000), cap_ms=st.integers(1, 600_000))


@given(BACKOFFS, st.integers(1, 10_000), JITTERS)
def test_a_delay_is_under_its_cap_and_never_negative(backoff: Backoff, attempt: int, jitter: float) -> None:
    assert 0 <= backoff.delay_ms(attempt, jitter) <= backoff.cap_ms


@given(BACKOFFS, st.integers(1, 10_000), JITTERS)
def test_a_later_attempt_never_waits_less(backoff: Backoff, attempt: int, jitter: float) -> None:
    assert backoff.delay_ms(attempt, jitter) <= backoff.delay_ms(attempt + 1, jitter)


@given(st.integers(1, 6), JITTERS)
def test_below_the_cap_the_ceiling_doubles_with_each_attempt(attempt: int, jitter: float) -> None:
    assert Backoff().delay_ms(attempt, jitter) == int(1_000 * 2 ** (attempt - 1) * jitter)


@given(st.integers(1, 100), JITTERS)
def test_a_passing_error_is_tried_again_while_attempts_remain(max_attempts: int, jitter: float) -> None:
    for attempt in range(1, max_attempts):
        job = replace(JOB, attempt=attempt, max_attempts=max_attempts)
        again = retry_at(job, PASSING, now=NOW, backoff=Backoff(), jitter=jitter)
        assert again == NOW + Backoff().delay_ms(attempt, jitter)


def test_the_last_attempt_is_the_last() -> None:
    job = replace(JOB, attempt=3, max_attempts=3)

    assert retry_at(job, PASSING, now=NOW, backoff=Backoff(), jitter=0.5) is None


def test_a_final_error_is_final_at_the_first_attempt() -> None:
    assert retry_at(JOB, FINAL, now=NOW, backoff=Backoff(), jitter=0.5) is None
