"""Group commit: whoever comes while a commit is under way shares the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

from ktqueue.errors import Unavailable
from ktqueue.job import Job

PATIENCE_S = 0.002
"""Whoever commits waits so long at most for as many to join as came the last time."""


class _Waiting:
    """A job that is to be committed, and the caller who waits until it is, or until it is his turn to commit."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.settled = False
        self.error: BaseException | None = None
        self._asleep = Lock()
        self._asleep.acquire()

    def sleep(self, at_most_s: float = -1) -> None:
        """Until somebody wakes it; so long at most, if that is not below 0."""
        self._asleep.acquire(timeout=at_most_s)

    def wake(self) -> None:
        """Once for each time that it sleeps."""
        self._asleep.release()


class Gathering:
    """Thread-safe. A caller that finds nobody at work commits at once; alone, nobody waits for company.

    Whoever has committed wakes those of its group, and one of those who came meanwhile to commit the next. While they
    come in company, a moment's patience makes groups large, and a commit costs much the same for many as for one.
    ``commit`` takes all of a group or none of it, and may be repeated. While it is Unavailable, every caller of the
    group is told so; any other fault may be one job's alone, so the group is then committed one by one.
    """

    def __init__(self, commit: Callable[[Sequence[Job]], None], *, patience_s: float = PATIENCE_S) -> None:
        self._commit = commit
        self._patience_s = patience_s
        self._last = 0
        self._leader: _Waiting | None = None
        self._waiting: list[_Waiting] = []
        self._at_work = False
        self._lock = Lock()

    def __call__(self, job: Job) -> None:
        """Return once ``job`` is committed, alone or with others; raises what ``commit`` raises."""
        mine = _Waiting(job)
        with self._lock:
            self._waiting.append(mine)
            if self._leader is not None and len(self._waiting) >= self._last:
                self._leader.wake()
                self._leader = None
            must_wait, self._at_work = self._at_work, True
        if must_wait:
            mine.sleep()
        if not mine.settled:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error

    def _lead(self, leader: _Waiting) -> None:
        with self._lock:
            some_are_missing = len(self._waiting) < self._last
            self._leader = leader if some_are_missing else None
        if some_are_missing:
            leader.sleep(self._patience_s)
        with self._lock:
            self._leader = None
            group, self._waiting = self._waiting, []
            self._last = len(group)
        self._commit_group(group)
        with self._lock:
            following = self._waiting[0] if self._waiting else None
            self._at_work = following is not None
        if following is not None:
            following.wake()
        for waiting in group:
            if waiting is not leader:
                waiting.wake()

    def _commit_group(self, group: Sequence[_Waiting]) -> None:
        try:
            self._commit([waiting.job for waiting in group])
        except BaseException as error:  # noqa: BLE001 - raised again, by each caller
            if len(group) > 1 and not isinstance(error, Unavailable):
                for waiting in group:
                    self._commit_group([waiting])
                return
            for waiting in group:
                waiting.error = error
        for waiting in group:
            waiting.settled = True
