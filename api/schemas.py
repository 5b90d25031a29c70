"""What the API answers, as types: answers are built as them, and the OpenAPI document is generated from them."""

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


class TimingBody(TypedDict):
    """How long it waited and ran, and the most jobs that shared one step with it."""

    queued_ms: int | None
    run_ms: int | None
    largest_batch: int | None


class JobLinks(TypedDict):
    """Where to go from here."""

    self: str
    cancel: str
    events: str
    attempts: str


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
    webhook: None
    usage: UsageBody | None
    timing: TimingBody
    retry_of: Annotated[str | None, Field(description="The failed job that this one repeats.")]
    links: JobLinks


class JobList(TypedDict):
    """A page of jobs, newest first."""

    object: Literal["list"]
    data: list[JobBody]
    next_cursor: Annotated[str | None, Field(description="For the parameter `cursor`; null on the last page.")]


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


class AttemptList(TypedDict):
    """The attempts at a job, the oldest first."""

    object: Literal["list"]
    data: list[AttemptBody]


class LineError(TypedDict):
    """Why a line of a bulk submit was refused."""

    code: str
    message: str
    field: NotRequired[str]
    retry_after: NotRequired[Annotated[int, Field(description="Seconds after which it may be taken.")]]


class BulkLine(TypedDict):
    """What became of one line of a bulk submit: it has an `id` or an `error`."""

    line: Annotated[int, Field(ge=1)]
    id: NotRequired[str]
    error: NotRequired[LineError]


class EventFields(TypedDict):
    """One server-sent event; `id` is what Last-Event-ID takes."""

    id: Annotated[str, Field(pattern="^[0-9]{1,9}-[0-9]{1,10}$")]
    event: Literal["state", "token", "progress"]
    data: Annotated[str, Field(description="A JSON object: a state, a piece of text with its offset, or a progress.")]


class ModelLimits(TypedDict):
    """Bounds of a model."""

    context: Annotated[int | None, Field(description="Most tokens; null: what the model's own configuration says.")]
    max_batch: Annotated[int, Field(description="Most jobs that run together.")]


class ModelBody(TypedDict):
    """A model that jobs can name."""

    id: str
    object: Literal["model"]
    tasks: Annotated[list[str], Field(description="What it can do; the first is the default.")]
    engine: str
    limits: ModelLimits


class ModelList(TypedDict):
    """Every model."""

    object: Literal["list"]
    data: list[ModelBody]
    next_cursor: None


class LaneBody(TypedDict):
    """The queue of one model."""

    model: str
    object: Literal["lane"]
    depth: Annotated[int, Field(description="Jobs that wait.")]
    running: int
    throughput: Annotated[float | None, Field(description="Jobs finished per second of late; null: too few to say.")]
    oldest_wait_seconds: Annotated[float | None, Field(description="How long the first in it has waited.")]


class LaneList(TypedDict):
    """Every lane."""

    object: Literal["list"]
    data: list[LaneBody]
    next_cursor: None


class Health(TypedDict):
    """The process is alive."""

    status: Literal["ok"]


class Readiness(TypedDict):
    """What the service depends on, and whether it answers."""

    status: Literal["ready"]
    checks: dict[str, str]


class FieldError(TypedDict):
    """One thing that is wrong: where (a dotted path), and what is allowed there."""

    field: str
    message: str


class Problem(TypedDict):
    """An error (RFC 9457). `code` is stable; `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: NotRequired[Annotated[str, Field(description="A dotted path, a header, or a query parameter.")]]
    errors: NotRequired[list[FieldError]]
    allowed: NotRequired[Annotated[list[str], Field(description="The names there are, for an unknown model.")]]
    checks: NotRequired[Annotated[dict[str, str], Field(description="Of /readyz: what answers and what does not.")]]
