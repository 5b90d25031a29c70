"""The drain loop: pull, claim, submit, step, settle, pull more, until the lane is empty and nothing is in flight.

One thread, one engine, one lane. Members join the batch and leave it between any two steps. Leases are renewed
between steps, so a step that hangs stops renewing and the jobs are given to someone else. Suspects of a crash run with
nobody but each other.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeAlias

from ktqueue.errors import StoreUnavailable, Unavailable
from ktqueue.events.base import Event, EventId
from ktqueue.execution import Execution, Had, Settled
from ktqueue.job import Job, JobError
from worker.engines.base import Cut, Declined, Delta, Engine, Failed, Finished, Output, Progress, Request
from worker.meter import LaneMeter, Unmetered
from worker.shares import Share, Shares
from worker.tempo import Tempo

PAUSE_S = 0.2
"""Between tries while a part we depend on does not answer and there is nothing else to do."""
SUSPECTS_S = 1.0
"""How often to look for suspects."""
ROOM_S = 10.0
"""How often to tell, at most, what the engine holds: a Redis that was emptied has forgotten it."""

logger = logging.getLogger(__name__)


Ending: TypeAlias = Finished | Failed | Declined | Cut
Ended: TypeAlias = tuple[Job, Ending, Share]
"""A job that is to be settled, how it ended, and what it had of the steps."""


class EngineBroken(Exception):
    """The engine raised out of a step: its state is not to be trusted, its process must be replaced."""


class Runner:
    """Drains one lane through one engine. ``stopping`` is asked between steps; ``grace_s`` bounds what follows.

    Each step is run under ``watchdog``, and ``meter`` is told of it.
    """

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
        watchdog: AbstractContextManager[None] = nullcontext(),  # noqa: B008 - it has no state
        meter: LaneMeter = Unmetered(),  # noqa: B008 - nor has this
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
        self._watchdog = watchdog
        self._meter = meter
        self._clock = clock
        self._sleep = sleep
        self._held: dict[str, Job] = {}
        self._progress: dict[str, float] = {}
        self._ended: list[Ended] = []
        self._shares = Shares()
        self._tempo = Tempo()
        self._join_at = 0.0
        self._renew_at = 0.0
        self._mark = ""
        self._apart = False
        self._look_at = 0.0
        self._tell_room_at = 0.0
        self._step_s = 0.0

    def drain(self) -> int:
        """Run until the lane is empty; how many jobs were claimed.

        Raises EngineBroken, its jobs given back as suspects; Unavailable, while nothing is held.
        """
        token = uuid.uuid4().hex
        self._held.clear()
        self._progress.clear()
        self._ended.clear()
        self._shares.clear()
        self._tempo.clear()
        self._execution.answer(self._model)
        self.tell_room()
        _, self._mark = self._execution.cancels(self._model, self._mark)
        claimed = 0
        self._renew_at = self._clock() + self._heartbeat_s
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
            self._cut_overdue()
            self._settle()
            if self._clock() >= self._renew_at:
                self._renew(token)
                self.tell_room()

    @property
    def running(self) -> int:
        """How many jobs are in the engine; may be asked from another thread."""
        return len(self._held)

    def tell_room(self) -> None:
        """Leave word of what the engine holds, unless that was done a moment ago. Raises nothing."""
        now = self._clock()
        if now >= self._tell_room_at:
            self._execution.tell_room(self._model, self._engine.room())
            self._tell_room_at = now + ROOM_S

    def _join(self, token: str) -> int:
        """Fill the engine; not while results wait for the database, which would not let us claim either."""
        if self._ended or self._clock() < self._join_at:
            return 0
        try:
            jobs = self._claim(token)
        except Unavailable as error:
            if not self._held:
                raise
            logger.debug("nothing can join the batch: %s", error)
            self._join_at = self._clock() + PAUSE_S
            return 0
        # We may have lost the lease of one that we hold, and here it is again. The older attempt is void.
        ids = [job.id for job in jobs]
        self._drop(ids)
        self._shares.join(ids, self._clock())
        self._meter.claimed(jobs)
        for job in jobs:
            self._held[job.id] = job
            self._engine.submit(Request(job.id, job.task, job.input, job.params, job.tenant))
        return len(jobs)

    def _claim(self, token: str) -> list[Job]:
        """What may join the batch: from the lane; or suspects, for whom it must be empty, and is then closed."""
        if self._held and self._apart:
            return []
        self._apart = False
        room = self._engine.capacity()
        if self._suspects_wait():
            if self._held:
                return []
            suspects = self._execution.claim_suspects(
                self._model, room, token=token, worker=self._worker, step_s=self._step_s
            )
            self._apart = bool(suspects)
            if suspects:
                return suspects
        if not room:
            return []
        return self._execution.claim(self._model, room, token=token, worker=self._worker, step_s=self._step_s)

    def _suspects_wait(self) -> bool:
        """Once there are some, the next are looked for at once."""
        now = self._clock()
        if now < self._look_at:
            return False
        waiting = self._execution.has_suspects(self._model)
        self._look_at = now if waiting else now + SUSPECTS_S
        return waiting

    def _step(self) -> None:
        began = self._clock()
        try:
            with self._watchdog:
                outputs = self._engine.step()
        except Exception as error:
            self._abandon()
            raise EngineBroken(f"{type(error).__name__}: {error}") from error
        now = self._clock()
        took = now - began
        self._shares.step(took)
        self._meter.stepped(took, len(self._held))
        # The slowest of late: one that was slow once is forgotten by and by.
        self._step_s = max(took, 0.9 * self._step_s)
        events = [event for output in outputs if (event := self._event(output)) is not None]
        self._progress |= {event.job_id: event.data["progress"] for event in events}
        self._execution.publish(events)
        self._tell_tempo({output.id for output in outputs if isinstance(output, Delta)}, now)
        endings = [output for output in outputs if isinstance(output, Finished | Failed | Declined)]
        if any(isinstance(output, Declined) for output in endings):
            # It is in its lane again at once, and would come back as quickly.
            self._join_at = self._clock() + PAUSE_S
        self._ended += [
            (self._held.pop(output.id), output, self._leave(output.id)) for output in endings if output.id in self._held
        ]

    def _tell_tempo(self, ids: Collection[str], now: float) -> None:
        if ids:
            jobs = [(self._held[job_id], self._shares.joined(job_id)) for job_id in ids if job_id in self._held]
            self._meter.spoke(self._tempo.spoke(jobs, now))

    def _leave(self, job_id: str) -> Share:
        """A job is no longer in the batch: what it had of its steps."""
        self._tempo.forget(job_id)
        return self._shares.leave(job_id, self._clock())

    def _cut_overdue(self) -> None:
        """Who is past its deadline leaves, with what there is of its result."""
        try:
            overdue = self._execution.overdue(self._held.values())
        except StoreUnavailable as error:
            logger.debug("no deadline can be told: %s", error)
            return
        for job in overdue:
            del self._held[job.id]
            self._ended.append((job, self._engine.cut(job.id), self._leave(job.id)))

    def _event(self, output: Output) -> Event | None:
        job = self._held.get(output.id)
        if job is None:
            return None
        if isinstance(output, Delta):
            data = {"text": output.text, "offset": output.offset, "progress": output.progress}
            if job.params.get("n", 1) > 1:
                data["choice"] = output.choice
            return Event(job.id, EventId(job.claims, output.told), "token", data)
        if isinstance(output, Progress):
            data = {"progress": output.done / output.total}
            return Event(job.id, EventId(job.claims, output.done), "progress", data)
        return None

    def _settle(self) -> None:
        """Commit what ended. While the database is away it is kept here, and tried again after each step."""
        if not self._ended:
            return
        try:
            self._commit(self._ended)
        except StoreUnavailable as error:
            logger.debug("%d results wait for the database: %s", len(self._ended), error)
            self._sleep(PAUSE_S)
        else:
            self._ended.clear()

    def _commit(self, ended: Sequence[Ended]) -> None:
        settled = [self._verdict(*one) for one in ended]
        try:
            ours = self._execution.settle(settled)
        except StoreUnavailable:
            raise
        except Exception as error:
            # One of them can't be stored, and the others must not suffer from it.
            if len(ended) > 1:
                for one in ended:
                    self._commit([one])
                return
            job, ending, share = ended[0]
            if isinstance(ending, Failed):
                raise
            logger.exception("the result of %s can't be stored", job.id)
            fault = JobError("engine_error", f"the result can't be stored: {type(error).__name__}")
            self._commit([(job, Failed(job.id, fault), share)])
        else:
            shares = (share for _, _, share in ended)
            self._meter.settled([each for each in zip(settled, shares, strict=True) if each[0][0].id in ours])

    def _verdict(self, job: Job, ending: Ending, share: Share) -> Settled:
        device_s, _, ride = share
        if isinstance(ending, Failed):
            return self._execution.failure(job, ending.error, device_s, ride)
        if isinstance(ending, Declined):
            return self._execution.returned(job)
        if isinstance(ending, Cut):
            return self._execution.expiry(
                job, ending.result, ending.usage, ending.largest_batch, device_s=device_s, ride=ride
            )
        return self._execution.success(
            job, ending.result, ending.usage, ending.largest_batch, device_s=device_s, ride=ride
        )

    def _renew(self, token: str) -> None:
        jobs = [*self._held.values(), *(job for job, _, _ in self._ended)]
        try:
            lost = self._execution.renew(token, jobs, step_s=self._step_s)
        except StoreUnavailable as error:
            logger.debug("%d leases are not renewed: %s", len(jobs), error)
            # They may be taken for lost the moment the database is back, so it must be us who gets there first.
            self._renew_at = self._clock() + PAUSE_S
            return
        self._renew_at = self._clock() + self._heartbeat_s
        self._tell_progress(token)
        self._drop(sorted(lost))
        self._ended = [one for one in self._ended if one[0].id not in lost]

    def _tell_progress(self, token: str) -> None:
        """Leave word of those that have come further since the last time."""
        news = {job_id: progress for job_id, progress in self._progress.items() if job_id in self._held}
        self._progress.clear()
        try:
            if news:
                self._execution.tell_progress(token, news)
        except StoreUnavailable as error:
            logger.debug("nobody is told how far %d jobs have come: %s", len(news), error)

    def _drop_cancelled(self, token: str) -> None:
        """A cancel is a hint to look: the store says whether a job is still ours, for it may be a newer claim."""
        ids, self._mark = self._execution.cancels(self._model, self._mark)
        if any(job_id in self._held for job_id in ids):
            self._renew(token)

    def _drop(self, ids: Sequence[str]) -> None:
        for job_id in ids:
            if self._held.pop(job_id, None) is not None:
                self._leave(job_id)
                self._engine.cancel(job_id)

    def _abandon(self) -> None:
        """The engine is broken. What can't be written now is brought back when this process is seen to be gone."""
        jobs = list(self._held.values())
        had = self._had(jobs)
        self._held.clear()
        self._settle()
        try:
            self._execution.crash(jobs, had)
        except StoreUnavailable as error:
            logger.warning("%d jobs of a broken engine are not given back: %s", len(jobs), error)

    def _give_back(self) -> None:
        jobs = list(self._held.values())
        for job in jobs:
            self._engine.cancel(job.id)
        self._held.clear()
        self._execution.give_back(jobs, self._had(jobs))
        self._meter.gave_back(len(jobs))
        logger.info("gave back %d jobs that did not fit the grace", len(jobs))

    def _had(self, jobs: Sequence[Job]) -> dict[str, Had]:
        """What jobs that leave had of their steps."""
        shares = {job.id: self._leave(job.id) for job in jobs}
        return {job_id: (share.device_s, share.ride) for job_id, share in shares.items()}
