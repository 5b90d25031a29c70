"""Who used how much of the device: each step is shared equally by the jobs that are in the engine while it runs."""

from __future__ import annotations


class Shares:
    """Costs the same for a thousand jobs in a step as for one: a job's share is what the sum grew by meanwhile."""

    def __init__(self) -> None:
        self._each_s = 0.0
        self._before: dict[str, float] = {}

    def join(self, job_id: str) -> None:
        """From the next step on this job has a share, and none of what it may have had."""
        self._before[job_id] = self._each_s

    def step(self, seconds: float) -> None:
        """A step took so long for all who are in it."""
        if self._before:
            self._each_s += seconds / len(self._before)

    def leave(self, job_id: str) -> float:
        """The job is no longer in it: its shares of all its steps, in seconds."""
        return self._each_s - self._before.pop(job_id, self._each_s)

    def clear(self) -> None:
        """Nobody is in it. The sum begins anew, for small numbers vanish beside large ones."""
        self._before.clear()
        self._each_s = 0.0
