from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from ktqueue.errors import StoreUnavailable
from ktqueue.gathering import Gathering
from ktqueue.job import Job, Task, new_job_id


def job() -> Job:
    return Job(id=new_job_id(), model="echo", task=Task.ECHO, input={}, params={}, created_at=0, rank=0.0)


class Commits:
    """Remembers its groups; while ``held``, it stays in the first."""

    def __init__(self) -> None:
        self.groups: list[list[Job]] = []
        self.entered = Event()
        self.released = Event()
        self.away = False

    def __call__(self, jobs: Sequence[Job]) -> None:
        self.groups.append(list(jobs))
        self.entered.set()
        assert self.released.wait(30)
        if self.away:
            raise StoreUnavailable("away")


def test_a_lone_caller_commits_at_once() -> None:
    commits = Commits()
    commits.released.set()
    only = job()
    Gathering(commits)(only)
    assert commits.groups == [[only]]


def test_callers_who_come_during_a_commit_share_the_next() -> None:
    commits = Commits()
    gather = Gathering(commits)
    later = [job() for _ in range(8)]
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(gather, job())
        assert commits.entered.wait(30)
        calls = [pool.submit(gather, one) for one in later]
        while len(gather._waiting) < len(later):
            pass
        commits.released.set()
        for call in [first, *calls]:
            call.result(30)
    assert len(commits.groups) == 2
    assert {one.id for one in commits.groups[1]} == {one.id for one in later}


def test_whoever_commits_after_a_group_waits_for_as_many() -> None:
    commits = Commits()
    gather = Gathering(commits, patience_s=30)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(gather, job())]
        assert commits.entered.wait(30)
        calls += [pool.submit(gather, job()) for _ in range(2)]
        while len(gather._waiting) < 2:
            pass
        commits.released.set()
        for call in calls:
            call.result(30)
        for call in [pool.submit(gather, job()) for _ in range(2)]:
            call.result(30)
    assert [len(group) for group in commits.groups] == [1, 2, 2]


def test_nobody_waits_long_for_those_who_do_not_come() -> None:
    commits = Commits()
    gather = Gathering(commits, patience_s=0)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(gather, job())]
        assert commits.entered.wait(30)
        calls += [pool.submit(gather, job()) for _ in range(2)]
        while len(gather._waiting) < 2:
            pass
        commits.released.set()
        for call in calls:
            call.result(30)
    gather(job())
    gather(job())
    assert [len(group) for group in commits.groups] == [1, 2, 1, 1]


def test_what_a_commit_raises_reaches_every_caller_and_nobody_after() -> None:
    commits = Commits()
    commits.away = True
    commits.released.set()
    gather = Gathering(commits)
    with ThreadPoolExecutor(8) as pool:
        for call in [pool.submit(gather, job()) for _ in range(8)]:
            with pytest.raises(StoreUnavailable):
                call.result(30)
    commits.away = False
    gather(job())


def test_a_fault_that_one_job_causes_is_not_its_neighbours() -> None:
    good, bad = job(), job()
    kept: list[Job] = []

    def commit(jobs: Sequence[Job]) -> None:
        if bad in jobs:
            raise ValueError("this one can't be kept")
        kept.extend(jobs)

    first, entered, released = job(), Event(), Event()

    def commit_after_both_came(jobs: Sequence[Job]) -> None:
        if first in jobs:
            entered.set()
            assert released.wait(30)
        commit(jobs)

    gather = Gathering(commit_after_both_came)
    with ThreadPoolExecutor(3) as pool:
        ahead = pool.submit(gather, first)
        assert entered.wait(30)
        calls = {pool.submit(gather, one): one for one in (good, bad)}
        while len(gather._waiting) < 2:
            pass
        released.set()
        ahead.result(30)
        failed = [one for call, one in calls.items() if call.exception(30) is not None]
    assert failed == [bad]
    assert kept == [first, good]
