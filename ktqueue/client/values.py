"""What the API answers, as frozen values. Fields that a newer server adds are kept, not refused."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Required, TypedDict

from pydantic import BaseModel, ConfigDict

from ktqueue.control import LaneMode
from ktqueue.job import JobState, JsonObject

KEY = re.compile(r"[\x21-\x7e]{1,255}")


class WebhookOptions(TypedDict, total=False):
    """Where a job's events go. ``events`` left out: those that end it."""

    url: Required[str]
    events: Sequence[str]


class JobOptions(TypedDict, total=False):
    """What may be said of a job besides its model and its input."""

    task: str
    """Left out: what the model does first."""
    params: JsonObject
    priority: int
    """0-9, higher sooner."""
    max_attempts: int
    metadata: Mapping[str, str]
    deadline_seconds: float
    reject_if_late: bool
    run_at: datetime
    """Not before this; without a time zone it is local time."""
    webhook: WebhookOptions


class JobSpec(JobOptions, total=False):
    """One job of a bulk submit."""

    model: Required[str]
    input: Required[JsonObject | str]


class Value(BaseModel):
    """A JSON object from the server."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class JobError(Value):
    """Why a job failed. ``code`` is stable, ``message`` is for people."""

    code: str
    message: str
    retryable: bool = False


class Usage(Value):
    """What a job consumed, in the model's own tokens and in device time."""

    prompt_tokens: int
    completion_tokens: int
    device_seconds: float = 0.0
    """Its share of the model's steps that it was in."""


class Timing(Value):
    """Milliseconds in the queue and in the model, and how many jobs shared the model's largest step.

    Of the ``steps`` it was in, ``mean_batch`` is how many jobs were in the model on average.
    """

    queued_ms: float | None = None
    run_ms: float | None = None
    largest_batch: int | None = None
    steps: int | None = None
    mean_batch: float | None = None


class Webhook(Value):
    """Where a job's events go."""

    url: str
    events: list[str]


class Job(Value):
    """A job as it was when the server answered; `Client.get` brings a newer one."""

    id: str
    model: str
    task: str
    state: JobState
    input: JsonObject
    params: JsonObject = {}
    result: JsonObject | None = None
    error: JobError | None = None
    priority: int
    attempt: int
    max_attempts: int
    position: int | None = None
    """How many jobs are ahead of it; None when it does not wait or that is not known."""
    eta_seconds: float | None = None
    progress: float | None = None
    created_at: datetime
    run_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    deadline_at: datetime | None = None
    metadata: dict[str, str] = {}
    webhook: Webhook | None = None
    usage: Usage | None = None
    timing: Timing = Timing()
    retry_of: str | None = None
    """The failed job that this one repeats."""

    @property
    def text(self) -> str | None:
        """The text that was generated, if the job has ended and its result is a text."""
        text = (self.result or {}).get("text")
        return text if isinstance(text, str) else None


class Batch(Value):
    """How many jobs were in the model in the steps of an attempt, the job itself included."""

    smallest: int
    mean: float
    largest: int


class ReceiptAttempt(Value):
    """One attempt: how long the job had waited for it, and what it had of the model's steps (None: not known)."""

    claim: int
    outcome: str
    worker: str
    started_at: datetime
    queued_ms: float
    run_ms: float
    device_seconds: float | None = None
    steps: int | None = None
    batch: Batch | None = None


class Receipt(Value):
    """What a job took until now, in all and in each attempt; ``usage`` is what is billed of it."""

    id: str
    model: str
    state: JobState
    queued_ms: float
    run_ms: float
    device_seconds: float
    usage: Usage | None = None
    attempts: list[ReceiptAttempt]


class LineError(Value):
    """Why one line of a bulk submit was refused."""

    code: str
    message: str
    field: str = ""
    retry_after: float | None = None
    """Seconds after which it may be taken, where the server told."""


class Submitted(Value):
    """What became of one job of a bulk submit: it has an ``id`` or an ``error``."""

    line: int
    """Its place among those that were given, from 1."""
    id: str | None = None
    error: LineError | None = None


class Limits(Value):
    """Most tokens of a prompt and its answer (None: whatever the model says), and most jobs that run together."""

    context: int | None = None
    max_batch: int


class Model(Value):
    """One model the server offers; the first of its tasks is what it does when none is asked for."""

    id: str
    tasks: list[str]
    engine: str
    limits: Limits


class Capacity(Value):
    """What one slot holds at once: ``jobs`` at most, ``jobs_at_once`` of them with prompts and answers so long."""

    jobs: int
    cache_tokens: int | None = None
    """Tokens that fit its cache of keys and values, in blocks of ``block_tokens``; None for an engine without one."""
    block_tokens: int | None = None
    prompt_tokens: int
    answer_tokens: int
    jobs_at_once: int


class Instance(Value):
    """A server that a slot passes its jobs on to, which has ``running`` of them. See /docs for its ``state``."""

    url: str
    kind: str
    state: str
    rests_seconds: float | None = None
    """For so long it takes no jobs; None: that is not known, or it does."""
    running: int
    outstanding_tokens: int
    jobs: int
    """The most at once, however short they are."""
    cache_tokens: int | None = None
    """Tokens that it holds at once, where models.toml says."""
    jobs_at_once: int | None = None
    """Jobs of the size that was asked for that fit together; told of a lane's."""


class Lane(Value):
    """The queue of one model: how many jobs wait and run, how many end per second, how long the first has waited."""

    model: str
    mode: LaneMode = LaneMode.OPEN
    concurrency: int | None = None
    """The most that may run at once; None: as many as fit."""
    workers: Sequence[str] | None = None
    """The names of the workers that are to serve it; with none of them its jobs wait. None: an older server."""
    depth: int
    running: int
    throughput: float | None = None
    oldest_wait_seconds: float | None = None
    capacity: Capacity | None = None
    """None while no slot has told of late."""
    instances: Sequence[Instance] = ()
    """The servers that its slots pass jobs on to, if it has any."""


class Event(Value):
    """One event of a job: ``type`` is 'state', 'token' or 'progress'; `id` is where to resume."""

    id: str
    type: str
    data: JsonObject

    @property
    def state(self) -> JobState | None:
        """The job's new state, in an event that tells one."""
        return JobState(self.data["state"]) if self.type == "state" else None

    @property
    def last(self) -> bool:
        """Whether the job has ended, so that no event can follow."""
        return self.state is not None and self.state.terminal


def job_body(model: str, input: JsonObject | str, options: JobOptions) -> JsonObject:  # noqa: A002 - the API's word
    """The body of a submit. A plain string is a prompt, or what is to be embedded or classified."""
    key = "text" if options.get("task") in {"embed", "classify"} else "prompt"
    body: dict[str, Any] = {"model": model, "input": {key: input} if isinstance(input, str) else input, **options}
    if "run_at" in options:
        body["run_at"] = rfc3339(options["run_at"])
    return body


def key_of(given: str | None) -> str:
    """The key given, or a new one. Raises ValueError for one that no header can carry."""
    if given is None:
        return uuid.uuid4().hex
    if not KEY.fullmatch(given):
        raise ValueError("an idempotency key is 1-255 visible ASCII characters")
    return given


def rfc3339(moment: datetime) -> str:
    """In UTC, as the API writes times; a moment without a time zone is local time."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
