"""What the API answers about webhooks, as frozen values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TypedDict

from pydantic import Field

from ktqueue.client.values import Value
from ktqueue.webhook import DeliveryState


class EndpointChanges(TypedDict, total=False):
    """What is to be different about an endpoint; what is left out stays as it is."""

    url: str
    events: Sequence[str]
    model: str | None
    """None: the jobs of every model."""
    description: str
    enabled: bool
    """An endpoint that is enabled again starts with a clean slate."""


class EndpointHealth(Value):
    """How an endpoint fares: ``state`` is 'closed' (well), 'open' (left alone for now) or 'half_open' (tried out)."""

    state: str
    failures: int = 0
    open_until: datetime | None = None
    failing_since: datetime | None = None


class WebhookEndpoint(Value):
    """Where events go that somebody registered for."""

    id: str
    url: str
    events: list[str]
    model: str | None = None
    """Only the jobs of this model; None: of every model."""
    description: str = ""
    enabled: bool
    disabled_reason: str | None = None
    """'gone' (it answered 410), 'failing' (for days) or 'operator' (somebody asked for it)."""
    created_at: datetime
    secret: str | None = Field(default=None, repr=False)
    """``whsec_…``; only the answers to `create` and `rotate` tell it."""
    health: EndpointHealth


class DeliveredEvent(Value):
    """What a delivery tells; ``id`` is the webhook-id that the receiver sees."""

    id: str
    type: str
    timestamp: datetime


class DeliveryAttempt(Value):
    """One request of a delivery. ``status`` is None when nobody answered; ``error`` is a short code that says why."""

    number: int
    at: datetime
    duration_ms: int
    status: int | None = None
    error: str | None = None
    answer: str = ""
    """How the answer's body began."""


class Delivery(Value):
    """One event for one receiver."""

    id: str
    event: DeliveredEvent
    job: str | None = None
    endpoint: str | None = None
    """None: it goes to the job's own webhook."""
    url: str
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime | None = None
    attempts_made: Sequence[DeliveryAttempt] = ()
    """The oldest first; not in lists of all deliveries."""


class WebhookKey(Value):
    """A public key that verifies signatures: a JWK, and the same as ``whpk_…``, as Standard Webhooks writes it."""

    kid: str
    x: str
    whpk: str


class WebhookKeys(Value):
    """All of them, the current one first."""

    keys: list[WebhookKey]


class Secret(Value):
    """A signing secret, ``whsec_…``."""

    secret: str = Field(repr=False)


class Replay(Value):
    """How many deliveries were begun anew."""

    deliveries: int
