"""What the API answers, as types: answers are built as them, and the OpenAPI document is generated from them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, NotRequired

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from ktqueue.bodies import AttemptBody, JobBody, Time
from ktqueue.control import LaneMode
from ktqueue.instance import STATES as INSTANCE_STATES
from ktqueue.presence.base import SlotState
from ktqueue.webhook import SUBSCRIBABLE, TITLES, DeliveryState, Disabled
from ktqueue.webhooks import CircuitState


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


class LaneCapacity(TypedDict):
    """What one slot of a lane holds at once."""

    jobs: Annotated[int, Field(description="The most, however short they are.")]
    cache_tokens: Annotated[
        int | None, Field(description="Tokens that fit its cache of keys and values; null: it has none.")
    ]
    block_tokens: Annotated[int | None, Field(description="The cache is given out in blocks of so many tokens.")]
    prompt_tokens: Annotated[int, Field(description="As asked for: what a prompt is taken to have.")]
    answer_tokens: Annotated[int, Field(description="As asked for: what an answer is taken to have.")]
    jobs_at_once: Annotated[int, Field(description="Jobs of that size that fit together; 0: not even one.")]


class InstanceBody(TypedDict):
    """A server that a slot passes its jobs on to."""

    url: str
    kind: str
    state: Annotated[
        str,
        WithJsonSchema({"type": "string", "enum": list(INSTANCE_STATES)}),
        Field(
            description="`closed`: well. `half-open`, `warming`: was not, and takes fewer jobs for now. `new`, `open`,"
            " `resting`: takes none. `elsewhere`: another slot uses it."
        ),
    ]
    rests_seconds: Annotated[float | None, Field(description="For so long it takes no jobs; null: not known, or does.")]
    running: Annotated[int, Field(ge=0, description="Jobs that it has of this slot.")]
    outstanding_tokens: Annotated[int, Field(ge=0, description="What they may still take, as estimated.")]
    jobs: Annotated[int, Field(description="The most at once, however short they are.")]
    cache_tokens: Annotated[int | None, Field(description="Tokens that it holds at once; null: not said.")]


class LaneInstanceBody(InstanceBody):
    """The same, with what it takes of jobs of the size that was asked for."""

    jobs_at_once: Annotated[int, Field(description="Jobs of that size that fit together; 0: not even one.")]


class LaneEtaError(TypedDict):
    """How far `eta_seconds`, as it was at submit, was from the wait, as a part of the wait; of the latest jobs."""

    p50: float
    p90: float
    jobs: int


class LaneBody(TypedDict):
    """The queue of one model."""

    model: str
    object: Literal["lane"]
    mode: Annotated[
        str,
        WithJsonSchema({"type": "string", "enum": [mode.value for mode in LaneMode]}),
        Field(description="`paused` keeps what it takes, `draining` takes nothing and runs what it has."),
    ]
    concurrency: Annotated[int | None, Field(description="Most jobs that may run at once; null: as many as fit.")]
    workers: Annotated[list[str], Field(description="Those that live and are to serve it; empty: its jobs wait.")]
    depth: Annotated[int, Field(description="Jobs that wait.")]
    running: int
    throughput: Annotated[float | None, Field(description="Jobs finished per second of late; null: too few to say.")]
    oldest_wait_seconds: Annotated[float | None, Field(description="How long the first in it has waited.")]
    eta_error: Annotated[LaneEtaError | None, Field(description="null: no job has waited a second for a day.")]
    capacity: Annotated[LaneCapacity | None, Field(description="Of one slot; null: none has told for a day.")]
    instances: Annotated[list[LaneInstanceBody], Field(description="The servers that its slots pass jobs on to.")]


class LaneList(TypedDict):
    """Every lane."""

    object: Literal["list"]
    data: list[LaneBody]
    next_cursor: None


class WorkerCapacity(TypedDict):
    """What a slot holds at once."""

    jobs: Annotated[int, Field(description="The most, however short they are.")]
    cache_tokens: Annotated[
        int | None, Field(description="Tokens that fit its cache of keys and values; null: it has none.")
    ]
    block_tokens: Annotated[int | None, Field(description="The cache is given out in blocks of so many tokens.")]


class WorkerPulse(TypedDict):
    """How a slot did in its last heartbeat, and how it is now."""

    prompt_tokens_per_second: float
    generated_tokens_per_second: float
    busy: Annotated[float, Field(ge=0, le=1, description="The part of the time in which its engine made a step.")]
    batch: Annotated[float, Field(ge=0, description="Jobs in a step, on average; 0 if there was none.")]
    cache_blocks: Annotated[int, Field(description="Of its cache of keys and values; 0: it has none.")]
    cache_blocks_used: int
    memory_bytes: Annotated[int, Field(description="That its process holds.")]
    device_memory_bytes: Annotated[int, Field(description="Of its GPUs, whoever uses them; 0: it has none.")]
    device_memory_used_bytes: int


class WorkerBody(TypedDict):
    """A slot: one process that holds one model."""

    name: Annotated[str, Field(description="As attempts tell it.")]
    object: Literal["worker"]
    worker: Annotated[str, Field(description="Whose slot it is, as `/api/v1/rosters` has it.")]
    host: str
    pid: int | None
    model: str
    state: Annotated[
        str,
        WithJsonSchema({"type": "string", "enum": [state.value for state in SlotState]}),
        Field(description="`starting` loads its model, `stopping` takes no more jobs."),
    ]
    slot: Annotated[int, Field(ge=0, description="Which of its worker's slots for this model it is.")]
    device: Annotated[str, Field(description="Where it computes, for people.")]
    capacity: Annotated[WorkerCapacity | None, Field(description="null while it starts.")]
    running: Annotated[int, Field(ge=0, description="Jobs in it.")]
    instances: Annotated[list[InstanceBody], Field(description="The servers that it passes jobs on to.")]
    pulse: WorkerPulse
    ready_at: Annotated[
        Time | None, Field(description="When it had loaded its model, by its own clock; null while it starts.")
    ]
    heartbeat_at: Annotated[Time, Field(description="When it told this.")]


class WorkerList(TypedDict):
    """Every slot that told of late, by model and name."""

    object: Literal["list"]
    data: list[WorkerBody]
    next_cursor: None


class RosterBody(TypedDict):
    """The models that one worker serves."""

    worker: Annotated[str, Field(description="By `KTQ_WORKER_NAME`, or its host's name.")]
    object: Literal["roster"]
    host: str
    models: Annotated[list[str], Field(description="Those that it is to serve; see its slots for how far that is.")]
    offers: Annotated[list[str], Field(description="Those that its catalogue has, so that they can be moved to it.")]
    heartbeat_at: Annotated[Time, Field(description="When it told this.")]


class RosterList(TypedDict):
    """Every worker that told of late, by name."""

    object: Literal["list"]
    data: list[RosterBody]
    next_cursor: None


class UsageDay(TypedDict):
    """What one tenant's jobs of one model used that ended on one day (UTC)."""

    day: Annotated[str, Field(json_schema_extra={"format": "date"})]
    tenant: str
    model: str
    succeeded: Annotated[int, Field(ge=0, description="Jobs that ended so.")]
    failed: int
    cancelled: int
    expired: int
    prompt_tokens: int
    completion_tokens: int
    device_seconds: Annotated[
        float, Field(description="Their shares of the steps they were in, in the attempts that ended them.")
    ]


UsageList = TypedDict(
    "UsageList",
    {
        "object": Literal["list"],
        "from": Annotated[str, Field(json_schema_extra={"format": "date"})],
        "to": Annotated[str, Field(json_schema_extra={"format": "date"})],
        "data": list[UsageDay],
        "next_cursor": None,
    },
)
"""Every row of the range, by day, tenant and model."""


class PurgeBody(TypedDict):
    """What a purge did, or would do."""

    object: Literal["purge"]
    model: str
    dry_run: bool
    jobs: Annotated[int, Field(ge=0, description="Cancelled; in a dry run: that would be.")]
    remaining: Annotated[int, Field(ge=0, description="Still queued of those it is meant for; if any, ask again.")]


def _names(known: Iterable[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": [str(name) for name in known]})


class EndpointHealth(TypedDict):
    """How an endpoint fares: `open` is left alone for now, `half_open` is tried with one delivery at a time."""

    state: Annotated[str, _names(CircuitState)]
    failures: Annotated[int, Field(ge=0, description="In a row.")]
    open_until: Time | None
    failing_since: Time | None


class EndpointLinks(TypedDict):
    """Where to go from here."""

    self: str
    test: str
    rotate: str
    replay: str
    deliveries: str


class EndpointBody(TypedDict):
    """A webhook endpoint as it is now."""

    id: Annotated[str, Field(pattern="^whe_[0-9a-f]{32}$")]
    object: Literal["webhook_endpoint"]
    url: str
    events: list[Annotated[str, _names(SUBSCRIBABLE)]]
    model: Annotated[str | None, Field(description="Only of this model's jobs; null: of all.")]
    description: str
    enabled: bool
    disabled_reason: Annotated[
        Annotated[str, _names(Disabled)] | None,
        Field(description="It answered 410, it failed for days, or an operator did it."),
    ]
    created_at: Time
    secret: NotRequired[
        Annotated[
            str,
            Field(pattern="^whsec_[A-Za-z0-9+/]+=*$", description="Only in the answers that create and rotate give."),
        ]
    ]
    health: EndpointHealth
    links: EndpointLinks


class EndpointList(TypedDict):
    """Every endpoint, the oldest first."""

    object: Literal["list"]
    data: list[EndpointBody]
    next_cursor: None


class ReplayBody(TypedDict):
    """How many deliveries were made pending again."""

    object: Literal["replay"]
    deliveries: Annotated[int, Field(ge=0)]


class TrialBody(TypedDict):
    """What a test event is about."""

    object: Literal["webhook_test"]
    endpoint: str


class EventBody(TypedDict):
    """What a webhook is sent: something that happened to a job, and the job as it was then."""

    id: Annotated[str, Field(pattern="^evt_[0-9a-f]{32}_[0-9]+$", description="The header `webhook-id`.")]
    type: Annotated[str, _names(TITLES.values())]
    timestamp: Annotated[Time, Field(description="When it happened.")]
    data: JobBody | TrialBody


class DeliveredEvent(TypedDict):
    """What is told; `id` is the header `webhook-id`."""

    id: Annotated[str, Field(pattern="^evt_[0-9a-f]{32}_[0-9]+$")]
    type: Annotated[str, _names(TITLES.values())]
    timestamp: Annotated[Time, Field(description="When it happened.")]


class DeliveryAttemptBody(TypedDict):
    """One request."""

    number: Annotated[int, Field(ge=1)]
    at: Time
    duration_ms: Annotated[int, Field(ge=0)]
    status: Annotated[int | None, Field(description="Of the answer; null: there was none, `error` says why.")]
    error: Annotated[str | None, Field(description="A code: `timeout`, `connection_failed`, …")]
    answer: Annotated[str, Field(description="How the answer's body began: 1,024 bytes at most.")]


class DeliveryLinks(TypedDict):
    """Where to go from here."""

    self: str
    job: str | None
    redeliver: str


class DeliveryBody(TypedDict):
    """One event for one receiver, as it is now."""

    id: Annotated[str, Field(pattern="^dlv_[0-9]+$")]
    object: Literal["delivery"]
    event: DeliveredEvent
    job: Annotated[str | None, Field(description="Null for a test.")]
    endpoint: Annotated[str | None, Field(description="Null for a job's own webhook.")]
    url: str
    state: Annotated[str, _names(DeliveryState)]
    attempts: Annotated[int, Field(ge=0, description="Requests so far.")]
    next_attempt_at: Annotated[Time | None, Field(description="Null when there is none to come, and during one.")]
    attempts_made: NotRequired[
        Annotated[list[DeliveryAttemptBody], Field(description="The oldest first; not in the list of all deliveries.")]
    ]
    links: DeliveryLinks


class DeliveryList(TypedDict):
    """A page of deliveries, newest first."""

    object: Literal["list"]
    data: list[DeliveryBody]
    next_cursor: Annotated[str | None, Field(description="For the parameter `cursor`; null on the last page.")]


class SecretBody(TypedDict):
    """What the webhooks of jobs are signed with."""

    object: Literal["webhook_secret"]
    secret: Annotated[str, Field(pattern="^whsec_[A-Za-z0-9+/]+=*$")]


class WebhookKey(TypedDict):
    """A public key as a JWK (RFC 8037); `whpk` is the same key as Standard Webhooks writes it."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    alg: Literal["EdDSA"]
    use: Literal["sig"]
    kid: str
    x: str
    whpk: Annotated[str, Field(pattern="^whpk_")]


class WebhookKeys(TypedDict):
    """The keys that signatures may be made with, the current one first."""

    keys: list[WebhookKey]


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
