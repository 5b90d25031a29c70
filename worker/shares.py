"""What each job had of the steps it was in: its share of their time, and with how many others it shared them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from ktqueue.job import Ride


class Share(NamedTuple):
    """What one job had of one attempt.

    ``device_s`` is its part of the steps, each shared equally by the jobs that were in the engine while it ran; and it
    was in there for ``seconds``. ``ride`` is None where there was no step.
    """

    device_s: float = 0.0
    seconds: float = 0.0
    ride: Ride | None = None


class _Mark(NamedTuple):
    """What the sums were when some jobs joined, and when that was."""

    each_s: float
    steps: int
    jobs: int
    at: float


_Peaks: TypeAlias = list[tuple[int, int]]
"""Steps and their jobs: those that no later step has outdone, oldest first."""

_NOBODY = _Mark(0.0, 0, 0, 0.0)


class Shares:
    """Costs the same for a thousand jobs in a step as for one: a job's share is what the sums grew by meanwhile.

    Instants are seconds of one clock.
    """

    def __init__(self) -> None:
        self._marks: dict[str, _Mark] = {}
        self._each_s = 0.0
        self._steps = 0
        self._jobs = 0
        self._largest: _Peaks = []
        self._smallest: _Peaks = []
        self._last_mark, self._last_steps, self._last = _NOBODY, 0, Share()

    def join(self, job_ids: Iterable[str], now: float) -> None:
        """From the next step on these jobs have a share, and none of what they may have had."""
        self._marks |= dict.fromkeys(job_ids, _Mark(self._each_s, self._steps, self._jobs, now))

    def joined(self, job_id: str) -> float:
        """When a job joined that is in it."""
        return self._marks[job_id].at

    def step(self, seconds: float) -> None:
        """A step took so long for all who are in it."""
        jobs = len(self._marks)
        if not jobs:
            return
        self._each_s += seconds / jobs
        while self._largest and self._largest[-1][1] <= jobs:
            self._largest.pop()
        while self._smallest and self._smallest[-1][1] >= jobs:
            self._smallest.pop()
        self._largest.append((self._steps, jobs))
        self._smallest.append((self._steps, jobs))
        self._steps += 1
        self._jobs += jobs

    def leave(self, job_id: str, now: float) -> Share:
        """The job is no longer in it: what it had."""
        mark = self._marks.pop(job_id, None)
        if mark is None:
            return Share()
        # Those that joined together and leave after the same step had the same.
        if mark is not self._last_mark or self._steps != self._last_steps:
            self._last_mark, self._last_steps = mark, self._steps
            self._last = self._since(mark, now)
        return self._last

    def clear(self) -> None:
        """Nobody is in it. The sums begin anew, for small numbers vanish beside large ones."""
        self._marks.clear()
        self._each_s = 0.0
        self._steps = 0
        self._jobs = 0
        self._largest.clear()
        self._smallest.clear()
        self._last_mark = _NOBODY

    def _since(self, mark: _Mark, now: float) -> Share:
        steps = self._steps - mark.steps
        if not steps:
            return Share(seconds=now - mark.at)
        ride = Ride(
            steps=steps,
            smallest=_peak(self._smallest, mark.steps),
            mean=round((self._jobs - mark.jobs) / steps, 3),
            largest=_peak(self._largest, mark.steps),
        )
        return Share(self._each_s - mark.each_s, now - mark.at, ride)


def _peak(peaks: _Peaks, first: int) -> int:
    """The most, or least, jobs of the steps from ``first`` on: those of the first one among them that none outdid."""
    return peaks[bisect_left(peaks, first, key=itemgetter(0))][1]
