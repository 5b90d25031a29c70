"""Group commit: whoever comes while a commit is under way shares the next one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock

from ktqueue.errors import Unavailable
from ktqueue.job import Job

Waiting = tuple[Job, "Future[None]"]


class Gathering:
    """Thread-safe. A caller that finds nobody at work commits at once, so nobody waits for company.

    ``commit`` takes all of a group or none of it, and may be repeated. While it is Unavailable, every caller of the
    group is told so; any other fault may be one job's alone, so the group is then committed one by one.
    """

    def __init__(self, commit: Callable[[Sequence[Job]], None]) -> None:
        self._commit = commit
        self._waiting: list[Waiting] = []
        self._list = Lock()
        self._turn = Lock()

    def __call__(self, job: Job) -> None:
        """Return once ``job`` is committed, alone or with others; raises what ``commit`` raises."""
        committed: Future[None] = Future()
        with self._list:
            self._waiting.append((job, committed))
        with self._turn:
            if not committed.done():
                with self._list:
                    group, self._waiting = self._waiting, []
                self._commit_group(group)
        committed.result()

    def _commit_group(self, group: Sequence[Waiting]) -> None:
        try:
            self._commit([job for job, _ in group])
        except BaseException as error:  # noqa: BLE001 - raised again, by each caller
            if len(group) > 1 and not isinstance(error, Unavailable):
                for waiting in group:
                    self._commit_group([waiting])
                return
            for _, committed in group:
                committed.set_exception(error)
        else:
            for _, committed in group:
                committed.set_result(None)
