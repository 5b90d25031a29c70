"""What clients may do with jobs: submit, look, cancel, retry, delete. Called by the API, knows nothing of HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ktqueue.admission import Admission
from ktqueue.cost import estimated_cost
from ktqueue.errors import (
    Conflict,
    IdempotencyMismatch,
    LaneDraining,
    LanesUnavailable,
    NotFound,
    QueueFull,
    TooLate,
    Unavailable,
)
from ktqueue.events.base import Events
from ktqueue.foretelling import Foretelling
from ktqueue.gathering import Gathering
from ktqueue.history import terminal_event
from ktqueue.job import Attempt, Job, JobState, JsonObject, Place, Task, last_attempt, new_job_id, size_of
from ktqueue.lanes.accuracy import Accuracy
from ktqueue.lanes.base import Lanes, LaneView
from ktqueue.ownership import owned
from ktqueue.priority_class import entry_of
from ktqueue.quotas import Quotas
from ktqueue.rank import DEFAULT_PRIORITY, rank
from ktqueue.receipt import Receipt, receipt_of
from ktqueue.room import Room
from ktqueue.store.base import IdempotencyKey, JobQuery, Kept, LaneCensus, Store
from ktqueue.tenant import DEFAULT_TENANT, Caller
from ktqueue.webhook import Webhook

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submission:
    """A request that was found valid: the model is in the catalogue and does the task."""

    model: str
    task: Task
    input: JsonObject
    params: JsonObject
    priority: int = DEFAULT_PRIORITY
    max_attempts: int = 3
    metadata: Mapping[str, str] = field(default_factory=dict)
    deadline_s: float | None = None
    reject_if_late: bool = False
    run_at: int | None = None
    webhook: Webhook | None = None
    caller: Caller = Caller()  # noqa: RUF009 - frozen, so sharing it is safe

    @property
    def tenant(self) -> str:
        """Whose job it is to be."""
        return self.caller.tenant


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """A lane as operators see it. ``rate`` is jobs finished per second of late, ``room`` what one slot of it holds."""

    model: str
    depth: int
    running: int
    rate: float | None
    oldest_wait_s: float | None
    room: Room | None = None
    accuracy: Accuracy | None = None


class Intake:
    """The use cases of the jobs API. Nobody finds another tenant's jobs: for whoever asks, there is no such job."""

    def __init__(
        self,
        store: Store,
        lanes: Lanes,
        events: Events,
        admission: Admission,
        foretelling: Foretelling,
        *,
        quotas: Quotas,
        new_id: Callable[[], str] = new_job_id,
    ) -> None:
        self._store = store
        self._lanes = lanes
        self._events = events
        self._admission = admission
        self._foretelling = foretelling
        self._quotas = quotas
        self._gather = Gathering(self._commit)
        self._new_id = new_id

    def submit(self, submission: Submission, key: IdempotencyKey | None = None) -> tuple[Job, bool]:
        """Accept one job: (the job, whether it is new). Once this returns, the job is committed.

        Raises QueueFull; LaneDraining; TooLate; IdempotencyMismatch if ``key`` was used for something else;
        StoreUnavailable.
        """
        job = self._job(submission, self._store.now())
        try:
            self.refuse_late(submission)
            self._admit([job], {submission.caller: [job]})
        except (QueueFull, LaneDraining, TooLate):
            # A lane that takes nothing now did when this request was accepted, if it is here for the second time.
            kept = None if key is None else self._store.kept(submission.tenant, key.key)
            if key is None or kept is None:
                raise
            return self._replayed(kept, key, job.tenant), False
        if key is None:
            self._gather(job)
            return job, True
        kept = self._store.add_once(job, key)
        if not kept.created:
            return self._replayed(kept, key, job.tenant), False
        self._enqueue([job])
        return job, True

    def _replayed(self, kept: Kept, key: IdempotencyKey, tenant: str) -> Job:
        if kept.digest != key.digest:
            raise IdempotencyMismatch(
                "this key was used before, with another request; use a new key for a new request",
                field="Idempotency-Key",
            )
        return self.get(kept.job_id, tenant)

    def submit_many(self, submissions: Sequence[Submission]) -> list[Job]:
        """Accept a group in one transaction, all or none. Raises QueueFull, LaneDraining, StoreUnavailable."""
        now = self._store.now()
        jobs = [self._job(submission, now) for submission in submissions]
        by_caller: dict[Caller, list[Job]] = {}
        for submission, job in zip(submissions, jobs, strict=True):
            by_caller.setdefault(submission.caller, []).append(job)
        self._admit(jobs, by_caller)
        self._commit(jobs)
        return jobs

    def _admit(self, jobs: Sequence[Job], by_caller: Mapping[Caller, Sequence[Job]]) -> None:
        # Looked for first: nobody is to spend tokens on what there is no room for.
        self._admission.check(jobs)
        for caller, theirs in by_caller.items():
            self._quotas.admit(theirs, caller)
        self._admission.admit(jobs)

    def refuse_late(self, submission: Submission) -> None:
        """Raises TooLate if it would be late, and would rather not be taken then."""
        if submission.reject_if_late:
            now = self._store.now()
            self._foretelling.refuse_late(self._job(submission, now), now)

    def get(self, job_id: str, tenant: str = DEFAULT_TENANT) -> Job:
        """The job as it is now. Raises NotFound."""
        return owned(self._store.get(job_id), job_id, tenant)

    def attempts(self, job_id: str, tenant: str = DEFAULT_TENANT) -> list[Attempt]:
        """Every attempt at a job, oldest first; the last may be under way. Raises NotFound."""
        return self._attempts(self.get(job_id, tenant))

    def receipt(self, job_id: str, tenant: str = DEFAULT_TENANT) -> Receipt:
        """What a job had until now, attempt by attempt. Raises NotFound."""
        job = self.get(job_id, tenant)
        return receipt_of(job, self._attempts(job), self._store.now())

    def _attempts(self, job: Job) -> list[Attempt]:
        """Asked after the job: an attempt that ends in between is told at least once."""
        ended = self._store.attempts(job.id)
        last = last_attempt(job)
        return ended if last is None or any(kept.claim == last.claim for kept in ended) else [*ended, last]

    def search(self, query: JobQuery) -> list[Job]:
        """Jobs that match, newest first."""
        return self._store.search(query)

    def place(self, job: Job) -> Place:
        """Where a job stands in its lane, and when its turn may come; unknown for one that is not waiting."""
        return self._foretelling.place(job)

    def wait_s(self, model: str) -> float | None:
        """How long a job that was just accepted may wait for its turn; cheap, so roughly. None is 'unknown'."""
        return self._admission.wait_s(model)

    def progress(self, job: Job) -> float | None:
        """How far a running job has come, 0.0-1.0, if its engine tells."""
        if job.state is not JobState.RUNNING:
            return None
        try:
            event = self._events.latest(job.id)
        except LanesUnavailable:
            return None
        value = event.data.get("progress") if event is not None else None
        return value if isinstance(value, float) else None

    def cancel(self, job_id: str, tenant: str = DEFAULT_TENANT) -> Job:
        """Cancel unless it has ended already; either way the job as it now is. Raises NotFound."""
        self.get(job_id, tenant)
        before = self._store.cancel(job_id)
        if before is None:
            raise NotFound(f"there is no job {job_id}")
        job = self.get(job_id, tenant)
        if not before.state.terminal:
            self._announce_cancel(before, job)
        return job

    def retry(self, job_id: str, caller: Caller = Caller()) -> Job:  # noqa: B008 - frozen, so sharing it is safe
        """A new job like the failed one. The failed one stays as it is: terminal states never change."""
        old = self.get(job_id, caller.tenant)
        if old.state is not JobState.FAILED:
            raise Conflict(f"only a failed job can be retried; {job_id} is {old.state}")
        again = Submission(
            model=old.model,
            task=old.task,
            input=old.input,
            params=old.params,
            priority=old.priority,
            max_attempts=old.max_attempts,
            metadata=old.metadata,
            deadline_s=None if old.deadline_at is None else (old.deadline_at - old.created_at) / 1000,
            webhook=old.webhook,
            caller=caller,
        )
        job = replace(self._job(again, self._store.now()), retry_of=old.id)
        self._admit([job], {caller: [job]})
        self._commit([job])
        return job

    def delete(self, job_id: str, tenant: str = DEFAULT_TENANT) -> None:
        """Forget a job that has ended. Raises NotFound; Conflict while it has not ended."""
        self.get(job_id, tenant)
        if not self._store.delete(job_id):
            raise Conflict(f"only a job that has ended can be deleted; {job_id} is {self.get(job_id, tenant).state}")

    def lanes(self, models: Sequence[str]) -> list[LaneStatus]:
        """The state of each lane. Raises StoreUnavailable, LanesUnavailable."""
        census = {lane.model: lane for lane in self._store.census()}
        now = self._store.now()
        views, rooms = self._lanes.views(models), self._lanes.rooms(models)
        told = self._lanes.accuracies(models)
        return [
            replace(
                _lane_status(model, views[model], census.get(model), now),
                room=rooms.get(model),
                accuracy=told.get(model),
            )
            for model in models
        ]

    def ping(self) -> dict[str, str]:
        """Ask what we depend on: {"database": "ok", "redis": "…what is wrong"}."""
        return {"database": self._ask(self._store), "redis": self._ask(self._lanes)}

    @staticmethod
    def _ask(port: Store | Lanes) -> str:
        try:
            port.ping()
        except Unavailable as error:
            return str(error)
        return "ok"

    def _job(self, submission: Submission, now: int) -> Job:
        due_at = max(now, submission.run_at or now)
        deadline_at = None if submission.deadline_s is None else now + int(submission.deadline_s * 1000)
        cost = estimated_cost(submission.task, submission.input, submission.params)
        webhook = submission.webhook
        return Job(
            id=self._new_id(),
            model=submission.model,
            task=submission.task,
            input=submission.input,
            params=submission.params,
            created_at=now,
            rank=rank(due_at, deadline_at, self._admission.run_ms(submission.model, cost)),
            priority=submission.priority,
            max_attempts=submission.max_attempts,
            metadata=submission.metadata,
            run_at=due_at if due_at > now else None,
            deadline_at=deadline_at,
            size=size_of(submission.input, submission.params, submission.metadata),
            webhook_url=webhook.url if webhook else None,
            webhook_target=webhook.target if webhook else None,
            webhook_events=int(webhook.events) if webhook else 0,
            tenant=submission.tenant,
            key=submission.caller.key,
            cost=cost,
        )

    def _commit(self, jobs: Sequence[Job]) -> None:
        self._store.add(jobs)
        self._enqueue(jobs)

    def _enqueue(self, jobs: Sequence[Job]) -> None:
        entries = [entry_of(job, job.created_at) for job in jobs if job.run_at is None]
        try:
            self._lanes.add(entries)
        except LanesUnavailable as error:
            # They are committed, so they are accepted: the sweep brings them into their lanes.
            logger.debug("%d accepted jobs wait for the sweep: %s", len(entries), error)
        else:
            self._foretelling.note(jobs)

    def _announce_cancel(self, before: Job, job: Job) -> None:
        try:
            if before.state is JobState.QUEUED:
                self._lanes.remove(job.model, job.id)
            else:
                self._lanes.ask_cancel(job.model, [job.id])
                self._lanes.freed(job.owners)
            self._events.publish([terminal_event(job)])
        except LanesUnavailable as error:
            # The store has it, so no worker can finish the job: one that runs it learns at its next heartbeat.
            logger.debug("the cancel of %s is not announced: %s", job.id, error)


def _lane_status(model: str, view: LaneView, census: LaneCensus | None, now: int) -> LaneStatus:
    oldest = census.oldest_due_at if census else None
    return LaneStatus(
        model=model,
        depth=view.depth,
        running=census.running if census else 0,
        rate=view.rate,
        oldest_wait_s=None if oldest is None else max(0, now - oldest) / 1000,
    )
