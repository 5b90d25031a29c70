"""Group commit: whoever comes while a commit is under way shares the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

from ktqueue.errors import Unavailable
from ktqueue.job import Job


class _Waiting:
    """A job that is to be committed, and the caller who waits until it is, or until it is his turn to commit."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.settled = False
        self.error: BaseException | None = None
        self._asleep = Lock()
        self._asleep.acquire()

    def sleep(self) -> None:
        """Until somebody wakes it."""
        self._asleep.acquire()

    def wake(self) -> None:
        """Once."""
        self._asleep.release()


class Gathering:
    """Thread-safe. A caller that finds nobody at work commits at once, so nobody waits for company.

    Whoever has committed wakes those of its group, and one of those who came meanwhile to commit the next: each is
    woken once. ``commit`` takes all of a group or none of it, and may be repeated. While it is Unavailable, every
    caller of the group is told so; any other fault may be one job's alone, so the group is then committed one by one.
    """

    def __init__(self, commit: Callable[[Sequence[Job]], None]) -> None:
        self._commit = commit
        self._waiting: list[_Waiting] = []
        self._at_work = False
        self._lock = Lock()

    def __call__(self, job: Job) -> None:
        """Return once ``job`` is committed, alone or with others; raises what ``commit`` raises."""
        mine = _Waiting(job)
        with self._lock:
            self._waiting.append(mine)
            must_wait, self._at_work = self._at_work, True
        if must_wait:
            mine.sleep()
        if not mine.settled:
            self._lead(mine)
        if mine.error is not None:
            raise mine.error

    def _lead(self, leader: _Waiting) -> None:
        with self._lock:
            group, self._waiting = self._waiting, []
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
