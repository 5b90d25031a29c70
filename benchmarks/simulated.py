"""A lane and its slot on a clock that is made up: the code that decides, with hours of jobs in seconds.

Jobs are echo jobs that run for their cost in milliseconds, so many at once. What is accepted waits in `MemoryLanes`,
which the contract tests hold to be the same as the lanes in Redis.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field

from ktqueue.errors import TooLate
from ktqueue.foretelling import Foretelling
from ktqueue.job import Job, Task
from ktqueue.lanes.base import Ended
from ktqueue.lanes.memory import MemoryLanes
from ktqueue.lateness import too_late
from ktqueue.priority_class import Entry, entry_of
from ktqueue.rank import rank

MODEL = "echo"
START = 1_790_000_000_000


@dataclass(slots=True)
class Simulation:
    """``at_once`` jobs run together. With ``fifo`` they run in the order in which they came, whatever else is known."""

    at_once: int = 16
    fifo: bool = False
    now: int = START
    served: Counter[str] = field(default_factory=Counter)
    started: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    lanes: MemoryLanes = field(init=False)
    _foretelling: Foretelling = field(init=False)
    _jobs: dict[str, Job] = field(default_factory=dict)
    _running: list[tuple[int, str]] = field(default_factory=list)
    _numbers: int = 0

    def __post_init__(self) -> None:
        """With lanes of its own."""
        self.lanes = MemoryLanes(lambda _: None, lambda: self.now)
        self._foretelling = Foretelling(self.lanes, limits=dict, clock=lambda: self.now / 1000)

    def submit(
        self,
        tenant: str,
        cost: int,
        *,
        priority: int = 5,
        deadline_ms: int | None = None,
        reject_if_late: bool = False,
    ) -> Job | None:
        """A job that comes now; None if it was refused."""
        self._numbers += 1
        deadline_at = None if deadline_ms is None else self.now + deadline_ms
        job = Job(
            id=f"job_{self._numbers:08}",
            model=MODEL,
            task=Task.ECHO,
            input={},
            params={},
            created_at=self.now,
            rank=rank(self.now, deadline_at, cost),
            priority=priority,
            deadline_at=deadline_at,
            tenant=tenant,
            cost=cost,
        )
        if reject_if_late:
            try:
                self._foretelling.refuse_late(job, self.now)
            except TooLate:
                return None
        self._jobs[job.id] = job
        self.lanes.add([self._entry(job)])
        self._foretelling.note([job])
        return job

    def _entry(self, job: Job) -> Entry:
        if self.fifo:
            return Entry(MODEL, job.id, float(self._numbers), "all", 5, job.cost, self.now)
        return entry_of(job, self.now)

    def run_to(self, instant: int) -> None:
        """Let the slot work until then."""
        self._fill()
        while self._running and self._running[0][0] <= instant:
            self.now = self._running[0][0]
            self._end()
            self._fill()
        self.now = max(self.now, instant)

    def run_out(self, most: int) -> None:
        """Until so many jobs have ended."""
        self._fill()
        while len(self.ended) < most and self._running:
            self.now = self._running[0][0]
            self._end()
            self._fill()

    def _fill(self) -> None:
        least_ms_each = 0.0 if self.fifo else self.lanes.view(MODEL).least_ms_each
        for job_id in self.lanes.pull(MODEL, self.at_once - len(self._running)):
            job = self._jobs[job_id]
            if too_late(job.deadline_at, job.cost, self.now, least_ms_each):
                continue  # expired: it costs no place
            self.started[job_id] = self.now
            heapq.heappush(self._running, (self.now + job.cost, job_id))
        if len(self._running) < self.at_once and self.lanes.view(MODEL).depth:
            self._fill()

    def _end(self) -> None:
        ended: list[Ended] = []
        while self._running and self._running[0][0] <= self.now:
            _, job_id = heapq.heappop(self._running)
            job = self._jobs[job_id]
            self.ended[job_id] = self.now
            self.served[job.tenant] += job.cost
            ended.append(Ended(job.tenant, job.priority, job.cost, job.cost, job.cost))
        self.lanes.count_finished(MODEL, ended)
