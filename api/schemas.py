"""What the API answers, as types: answers are built as them, and the OpenAPI document is generated from them."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from ktqueue.bodies import AttemptBody, JobBody


class JobList(TypedDict):
    """A page of jobs, newest first."""

    object: Literal["list"]
    data: list[JobBody]
    next_cursor: Annotated[str | None, Field(description="For the parameter `cursor`; null on the last page.")]


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
