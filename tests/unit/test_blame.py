"""Blame: the culprit of a crash is found alone, whoever was merely near is charged nothing (invariants 4 and 9)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktqueue.blame import FREE, blame
from ktqueue.job import ENGINE_CRASHED, LEASE_LOST, Job, JobState, Task, Verdict
from ktqueue.retry import Backoff

MOST_ATTEMPTS = 3
MOST_CRASHES = 4 * (FREE + 4 + MOST_ATTEMPTS)


def running(number: int, token: str = "t", attempt: int = 1, crashes: int = FREE) -> Job:
    """One that was near so many crashes before: as many as make a suspect, unless told otherwise."""
    job = Job(f"job_{number}", "m", Task.ECHO, {}, {}, created_at=0, rank=0.0, max_attempts=MOST_ATTEMPTS)
    return replace(
        job,
        state=JobState.RUNNING,
        attempt=attempt,
        claims=attempt,
        token=token,
        crashes=crashes,
        company=crashes or None,
    )


def verdicts(*jobs: Job) -> list[Verdict]:
    return blame(jobs, LEASE_LOST, now=1_000, backoff=Backoff(), jitter=0.5)


def test_at_first_all_run_again_as_if_nothing_had_been() -> None:
    for crashes in range(FREE):
        found = verdicts(*(running(number, crashes=crashes) for number in range(64)))

        assert {(each.state, each.charged, each.company, each.crashes, each.run_at) for each in found} == {
            (JobState.QUEUED, False, None, crashes + 1, None)
        }
        assert all(each.back_in_lane for each in found)


def test_those_that_die_again_are_suspects_and_are_not_charged() -> None:
    found = verdicts(*(running(number) for number in range(64)))

    assert {(each.state, each.charged, each.company, each.crashes) for each in found} == {
        (JobState.QUEUED, False, 8, FREE + 1)
    }
    assert not any(each.back_in_lane for each in found)


def test_whoever_was_there_for_the_first_time_is_no_suspect() -> None:
    found = verdicts(*(running(number, crashes=number % 2 * FREE) for number in range(64)))

    assert {(each.fence.job_id[-1] in "13579", each.company) for each in found} == {(True, 8), (False, None)}


@pytest.mark.parametrize(("suspects", "company"), [(2, 1), (8, 1), (9, 8), (64, 8), (65, 64), (512, 64), (513, 512)])
def test_each_time_they_run_in_the_next_smaller_groups(suspects: int, company: int) -> None:
    found = verdicts(*(running(number) for number in range(suspects)))

    assert {each.company for each in found} == {company}


def test_one_alone_is_no_suspect_at_first_either() -> None:
    [found] = verdicts(running(1, crashes=FREE - 1))

    assert (found.charged, found.company, found.crashes, found.run_at) == (False, None, FREE, None)


def test_one_alone_is_charged_and_stays_alone() -> None:
    [found] = verdicts(running(1))

    assert (found.state, found.charged, found.company, found.error) == (JobState.QUEUED, True, 1, LEASE_LOST)
    assert found.run_at == 1_000 + Backoff().delay_ms(1, 0.5)


def test_one_alone_whose_attempts_are_used_up_has_failed() -> None:
    [found] = verdicts(running(1, attempt=MOST_ATTEMPTS))

    assert (found.state, found.error) == (JobState.FAILED, ENGINE_CRASHED)


def test_those_of_different_processes_did_not_die_together() -> None:
    found = verdicts(running(1, "a"), running(2, "b"), running(3, "b"))

    assert [(each.fence.job_id, each.charged) for each in found] == [
        ("job_1", True),
        ("job_2", False),
        ("job_3", False),
    ]


@given(st.integers(1, 4096), st.data())
def test_whoever_is_to_blame_is_found_and_nobody_else_pays(count: int, data: st.DataObject) -> None:
    culprits = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=4))
    jobs = {number: running(number, crashes=0) for number in range(count)}
    dying, failed, crashes = [list(jobs)], set(), 0
    while dying:
        members = dying.pop()
        found = verdicts(*(jobs[number] for number in members))
        crashes += 1
        assert crashes <= MOST_CRASHES
        if found[0].state is JobState.FAILED:
            failed |= set(members)
            continue
        company = found[0].company or len(members)
        assert company < len(members) or len(members) == 1 or jobs[members[0]].crashes < FREE
        for number in members:
            job = jobs[number]
            jobs[number] = replace(job, attempt=job.attempt + found[0].charged, crashes=found[0].crashes)
        groups = [members[start : start + company] for start in range(0, len(members), company)]
        dying += [group for group in groups if culprits & set(group)]

    assert failed == culprits
    assert {number for number, job in jobs.items() if job.attempt > 1} == culprits
