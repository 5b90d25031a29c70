"""What clients see of a job, as types: answers and webhooks are built as them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from ktqueue.job import JobState

Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
State = Annotated[str, WithJsonSchema({"type": "string", "enum": [state.value for state in JobState]})]


class ErrorBody(TypedDict):
    """Why a job failed; `code` is stable, `message` is for people."""

    code: str
    message: str
    retryable: bool


class UsageBody(TypedDict):
    """What the job consumed, in the model's own tokens."""

    prompt_tokens: int
    completion_tokens: int
    device_seconds: Annotated[
        float, Field(description="Its share of the steps it was in, in the attempt that ended it.")
    ]


class TimingBody(TypedDict):
    """How long it waited and ran, and the most jobs that shared one step with it; its receipt tells more."""

    queued_ms: int | None
    run_ms: int | None
    largest_batch: int | None
    steps: Annotated[int | None, Field(description="Steps of the engine that it was in, in the attempt that ended it.")]
    mean_batch: Annotated[float | None, Field(description="Jobs that were in the engine in those, on average.")]


class JobLinks(TypedDict):
    """Where to go from here."""

    self: str
    cancel: str
    events: str
    attempts: str
    receipt: str
    deliveries: str
    result: NotRequired[Annotated[str, Field(description="Only in a webhook whose result was too large for it.")]]


class WebhookBody(TypedDict):
    """Where the job's events are sent."""

    url: str
    events: list[str]


class JobBody(TypedDict):
    """A job as it is now."""

    id: Annotated[str, Field(pattern="^job_[0-9a-f]{32}$")]
    object: Literal["job"]
    model: str
    task: str
    state: State
    input: dict[str, Any]
    params: dict[str, Any]
    result: dict[str, Any] | None
    error: ErrorBody | None
    priority: int
    attempt: int
    max_attempts: int
    position: Annotated[int | None, Field(description="How many jobs are ahead; null when unknown, and in lists.")]
    eta_seconds: Annotated[float | None, Field(description="When its turn may come; null when unknown, and in lists.")]
    progress: Annotated[float | None, Field(description="0-1 while it runs, if its engine tells; null in lists.")]
    created_at: Time
    run_at: Time | None
    started_at: Time | None
    finished_at: Time | None
    deadline_at: Time | None
    metadata: dict[str, str]
    webhook: WebhookBody | None
    usage: UsageBody | None
    timing: TimingBody
    retry_of: Annotated[str | None, Field(description="The failed job that this one repeats.")]
    links: JobLinks


class AttemptBody(TypedDict):
    """One claim of a job by a worker."""

    claim: Annotated[int, Field(ge=1, description="Numbers all claims of the job.")]
    attempt: Annotated[int, Field(ge=1, description="Numbers those that are charged to the job.")]
    charged: Annotated[bool, Field(description="False when how it ended was not held against the job.")]
    worker: Annotated[str, Field(description="Host, process id, the process's start and the machine's.")]
    started_at: Time
    ended_at: Time | None
    outcome: Literal["running", "succeeded", "failed", "cancelled", "expired", "crashed", "lease_lost", "given_back"]
    error: ErrorBody | None


class BatchBody(TypedDict):
    """How many jobs were in the engine in the steps of an attempt, this one included."""

    smallest: int
    mean: float
    largest: int


class ReceiptAttempt(TypedDict):
    """One attempt on a receipt."""

    claim: Annotated[int, Field(ge=1, description="Numbers all claims of the job.")]
    outcome: Literal["running", "succeeded", "failed", "cancelled", "expired", "crashed", "lease_lost", "given_back"]
    worker: str
    started_at: Time
    queued_ms: Annotated[int, Field(ge=0, description="Since the attempt before, or since the job was submitted.")]
    run_ms: Annotated[int, Field(ge=0, description="Until now, if it runs.")]
    device_seconds: Annotated[
        float | None, Field(description="Its share of the steps; null where nobody could tell, as of a process killed.")
    ]
    steps: Annotated[int | None, Field(description="How many steps it was in; null as above.")]
    batch: Annotated[BatchBody | None, Field(description="Null as above, and where there was no step.")]


class ReceiptBody(TypedDict):
    """What a job took, attempt by attempt, until now."""

    id: Annotated[str, Field(pattern="^job_[0-9a-f]{32}$")]
    object: Literal["receipt"]
    model: str
    state: State
    queued_ms: Annotated[int, Field(ge=0, description="All that it waited.")]
    run_ms: Annotated[int, Field(ge=0, description="All that it ran.")]
    device_seconds: Annotated[float, Field(ge=0, description="Of all attempts, as far as is known; `usage` is billed.")]
    usage: UsageBody | None
    attempts: list[ReceiptAttempt]
