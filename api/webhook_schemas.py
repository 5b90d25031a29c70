"""What the API answers of webhooks, and what those tell, as types: see `api.schemas`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, NotRequired

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from ktqueue.bodies import JobBody, Time
from ktqueue.webhook import SUBSCRIBABLE, TITLES, DeliveryState, Disabled
from ktqueue.webhooks import CircuitState


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
