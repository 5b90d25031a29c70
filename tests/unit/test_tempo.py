"""Times to the first word, and between words."""

from __future__ import annotations

from dataclasses import replace

from ktqueue.job import Job, Task
from worker.tempo import Spoken, Tempo

JOB = Job("job_a", "m", Task.GENERATE, {}, {}, created_at=1_000, rank=0.0, started_at=3_500)


def test_the_first_word_counts_from_the_submission_and_the_others_from_the_one_before() -> None:
    tempo = Tempo()
    other = replace(JOB, id="job_b", started_at=1_000)

    assert tempo.spoke([(JOB, 10.0)], 11.0) == Spoken([3.5], [])
    assert tempo.spoke([(JOB, 10.0), (other, 11.5)], 12.0) == Spoken([0.5], [1.0])
    assert tempo.spoke([(other, 11.5)], 12.25) == Spoken([], [0.25])


def test_one_that_left_begins_anew() -> None:
    tempo = Tempo()
    tempo.spoke([(JOB, 10.0)], 11.0)
    tempo.forget(JOB.id)
    tempo.forget("job_z")

    assert tempo.spoke([(JOB, 20.0)], 20.5) == Spoken([3.0], [])
    tempo.clear()
    assert tempo.spoke([(JOB, 20.0)], 20.5) == Spoken([3.0], [])


def test_no_wait_is_negative() -> None:
    assert Tempo().spoke([(replace(JOB, started_at=0), 1.0)], 1.0) == Spoken([0.0], [])
    assert Tempo().spoke([(replace(JOB, started_at=None), 1.0)], 1.0) == Spoken([0.0], [])
