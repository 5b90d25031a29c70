"""The drain loop: pull, claim, submit, step, settle, pull more, until the lane is empty and nothing is in flight.

One thread, one engine, one lane. Members join the batch and leave it between any two steps. Leases are renewed
between steps, so a step that hangs stops renewing and the jobs are given to someone else.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ktqueue.errors import StoreUnavailable, Unavailable
from ktqueue.events.base import Event, EventId
from ktqueue.execution import Execution, Settled
from ktqueue.job import Job, JobError
from worker.engines.base import Delta, Engine, Failed, Finished, Output, Progress, Request

PAUSE_S = 0.2
"""Between tries while a part we depend on does not answer and there is nothing else to do."""

logger = logging.getLogger(__name__)


Ending: TypeAlias = Finished | Failed


class EngineBroken(Exception):
    """The engine raised out of a step: its state is not to be trusted, its process must be replaced."""


class Runner:
    """Drains one lane through one engine. ``stopping`` is asked between steps; ``grace_s`` bounds what follows."""

    def __init__(
        self,
        execution: Execution,
        engine: Engine,
        *,
        model: str,
        worker: str,
        heartbeat_s: float,
        grace_s: float,
        stopping: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._execution = execution
        self._engine = engine
        self._model = model
        self._worker = worker
        self._heartbeat_s = heartbeat_s
        self._grace_s = grace_s
        self._stopping = stopping
        self._clock = clock
        self._sleep = sleep
        self._held: dict[str, Job] = {}
        self._ended: list[tuple[Job, Ending]] = []
        self._join_at = 0.0
        self._mark = ""

    def drain(self) -> int:
        """Run until the lane is empty; how many jobs were claimed.

        Raises EngineBroken, its jobs settled as failed attempts; Unavailable, while nothing is held.
        """
        token = uuid.uuid4().hex
        self._held.clear()
        self._ended.clear()
        self._execution.answer(self._model)
        _, self._mark = self._execution.cancels(self._model, self._mark)
        claimed = 0
        renewed_at = self._clock()
        stop_at: float | None = None
        while True:
            if stop_at is None and self._stopping():
                stop_at = self._clock() + self._grace_s
            if stop_at is None:
                claimed += self._join(token)
            if not (self._held or self._ended):
                return claimed
            if stop_at is not None and self._clock() >= stop_at:
                self._give_back()
                return claimed
            self._drop_cancelled(token)
            self._step()
            self._settle()
            if self._clock() - renewed_at >= self._heartbeat_s:
                self._renew(token)
                renewed_at = self._clock()

    def _join(self, token: str) -> int:
        """Fill the engine; not while results wait for the database, which would not let us claim either."""
        room = self._engine.capacity()
        if room == 0 or self._ended or self._clock() < self._join_at:
            return 0
        try:
            jobs = self._execution.claim(self._model, room, token=token, worker=self._worker)
        except Unavailable as error:
            if not self._held:
                raise
            logger.warning("nothing can join the batch: %s", error)
            self._join_at = self._clock() + PAUSE_S
            return 0
        # We may have lost the lease of one that we hold, and here it is again. The older attempt is void.
        self._drop([job.id for job in jobs])
        for job in jobs:
            self._held[job.id] = job
            self._engine.submit(Request(job.id, job.task, job.input, job.params))
        return len(jobs)

    def _step(self) -> None:
        try:
            outputs = self._engine.step()
        except Exception as error:
            self._abandon(error)
            raise EngineBroken(f"{type(error).__name__}: {error}") from error
        events = [event for output in outputs if (event := self._event(output)) is not None]
        self._execution.publish(events)
        endings = [output for output in outputs if isinstance(output, Finished | Failed)]
        self._ended += [(self._held.pop(output.id), output) for output in endings if output.id in self._held]

    def _event(self, output: Output) -> Event | None:
        job = self._held.get(output.id)
        if job is None:
            return None
        if isinstance(output, Delta):
            end = EventId(job.claims, output.offset + len(output.text))
            data = {"text": output.text, "offset": output.offset, "progress": output.progress}
            return Event(job.id, end, "token", data)
        if isinstance(output, Progress):
            data = {"progress": output.done / output.total}
            return Event(job.id, EventId(job.claims, output.done), "progress", data)
        return None

    def _settle(self) -> None:
        """Commit what ended. While the database is away it is kept here, and tried again after each step."""
        if not self._ended:
            return
        try:
            self._execution.settle([self._verdict(job, ending) for job, ending in self._ended])
        except StoreUnavailable as error:
            logger.warning("%d results wait for the database: %s", len(self._ended), error)
            self._sleep(PAUSE_S)
        else:
            self._ended.clear()

    def _verdict(self, job: Job, ending: Ending) -> Settled:
        if isinstance(ending, Failed):
            return self._execution.failure(job, ending.error)
        return self._execution.success(job, ending.result, ending.usage, ending.largest_batch)

    def _renew(self, token: str) -> None:
        jobs = [*self._held.values(), *(job for job, _ in self._ended)]
        try:
            lost = self._execution.renew(token, jobs)
        except StoreUnavailable as error:
            logger.warning("%d leases are not renewed: %s", len(jobs), error)
            return
        self._drop(sorted(lost))
        self._ended = [(job, ending) for job, ending in self._ended if job.id not in lost]

    def _drop_cancelled(self, token: str) -> None:
        """A cancel is a hint to look: the store says whether a job is still ours, for it may be a newer claim."""
        ids, self._mark = self._execution.cancels(self._model, self._mark)
        if any(job_id in self._held for job_id in ids):
            self._renew(token)

    def _drop(self, ids: Sequence[str]) -> None:
        for job_id in ids:
            if self._held.pop(job_id, None) is not None:
                self._engine.cancel(job_id)

    def _abandon(self, error: Exception) -> None:
        """The engine is broken: every member's attempt failed. What can't be written now goes back by its lease."""
        fault = JobError("engine_error", f"the engine failed: {type(error).__name__}", retryable=True)
        self._ended += [(job, Failed(job.id, fault)) for job in self._held.values()]
        self._held.clear()
        self._settle()

    def _give_back(self) -> None:
        jobs = list(self._held.values())
        for job in jobs:
            self._engine.cancel(job.id)
        self._held.clear()
        self._execution.give_back(jobs)
        logger.info("gave back %d jobs that did not fit the grace", len(jobs))
