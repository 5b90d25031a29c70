"""The outbox: every event that is to be told to a webhook, and the endpoints that registered for some.

A delivery is one event for one receiver. Its row is written by the store, in the transaction that changes the job;
from there on it is this port's. As in the store, every method is one transaction, may raise StoreUnavailable and is
safe to repeat, and instants are Unix milliseconds on the database's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ktqueue.tenant import DEFAULT_TENANT
from ktqueue.webhook import Answer, DeliveryState, Disabled, EventType
from ktqueue.webhook_policy import Circuit


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where events are told that somebody registered for.

    ``secret`` and ``old_secret`` are sealed; the old one signs as well until ``old_secret_until``.
    """

    id: str
    url: str
    events: EventType
    secret: str
    created_at: int
    model: str | None = None
    description: str = ""
    disabled: Disabled | None = None
    old_secret: str | None = None
    old_secret_until: int | None = None
    tenant: str = DEFAULT_TENANT


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one receiver.

    ``job_id`` is "" for a test, ``endpoint`` is "" for a job's own webhook. ``seq`` orders the events of a job and
    ``at`` is when this one happened; ``attempt``, ``started_at``, ``run_at`` and ``progress`` are the job's at that
    moment, where it may have changed since. ``attempts`` counts requests, ``tries`` those since it was last begun
    anew; ``next_at`` is when it is due, or, while ``token`` holds it, when it is taken for lost.
    """

    id: int
    job_id: str
    seq: int
    type: EventType
    at: int
    endpoint: str
    target: str
    state: DeliveryState
    attempts: int
    tries: int
    next_at: int | None
    token: str | None
    attempt: int
    started_at: int | None
    run_at: int | None
    progress: float | None
    tenant: str


@dataclass(frozen=True, slots=True)
class DeliveryAttempt:
    """One request, ``number`` counting those of its delivery from 1; ``answer`` is how the answer's body began."""

    delivery_id: int
    number: int
    at: int
    duration_ms: int
    status: int | None
    error: str | None
    answer: str


@dataclass(frozen=True, slots=True)
class DeliveryQuery:
    """Which deliveries to list, newest first. ``before`` is the last id of the page before; no ``tenant`` is all."""

    tenant: str | None = None
    job_id: str | None = None
    endpoint: str | None = None
    state: DeliveryState | None = None
    before: int | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class DueTarget:
    """A receiver that something is due for, and how it fares, if it fails."""

    target: str
    circuit: Circuit | None


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of a delivery that was attempted: DELIVERED, FAILED, or PENDING until ``next_at``."""

    delivery_id: int
    token: str
    answer: Answer
    state: DeliveryState
    next_at: int | None = None


class Outbox(Protocol):
    """Durable deliveries and endpoints."""

    def now(self) -> int:
        """The database's clock."""

    def due_targets(self) -> list[DueTarget]:
        """Receivers that something is due for, and whose circuit is not open."""

    def claim(self, wanted: Mapping[str, int], *, token: str, sender: str, lease_ms: int) -> list[Delivery]:
        """Take what is due, up to so many deliveries of each target, the longest due first.

        Of one job's events for one receiver only the first is taken that was never attempted. What is not settled
        within ``lease_ms`` is due again.
        """

    def settle(self, settlements: Sequence[Settlement], circuits: Mapping[str, Circuit | None]) -> set[int]:
        """Write down attempts and what follows from them, and how targets fare (None: well); the ids that changed.

        A delivery whose token is another's by now is left as it is: that one will tell of its own attempt.
        """

    def circuits(self, targets: Sequence[str]) -> dict[str, Circuit]:
        """How targets fare; one that is well has no entry."""

    def disable(self, endpoint_id: str, why: Disabled) -> int:
        """Tell an enabled endpoint nothing more; what is pending for it fails. How many deliveries that were."""

    def senders(self) -> list[str]:
        """Every sender that holds deliveries."""

    def release(self, sender: str) -> int:
        """Make due what a sender holds that is known to be gone; how many that were."""

    def add_endpoint(self, endpoint: Endpoint) -> None:
        """Commit a new endpoint."""

    def endpoint(self, endpoint_id: str) -> Endpoint | None:
        """The endpoint as it is now."""

    def endpoints(self, ids: Sequence[str]) -> list[Endpoint]:
        """Those with these ids; the oldest first."""

    def endpoints_of(self, tenant: str) -> list[Endpoint]:
        """All of a tenant's; the oldest first."""

    def change_endpoint(self, endpoint_id: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint | None:
        """Write what ``change`` makes of an endpoint, but for id, tenant and created_at; what it then is.

        None if it is gone. Nobody else changes it meanwhile. One that is enabled has no circuit any more.
        """

    def delete_endpoint(self, endpoint_id: str) -> bool:
        """Delete it with its deliveries; whether it was there."""

    def add_test(self, endpoint_id: str) -> Delivery | None:
        """A pending delivery of a test event; None if there is no such endpoint."""

    def delivery(self, delivery_id: int) -> Delivery | None:
        """The delivery as it is now."""

    def deliveries(self, query: DeliveryQuery) -> list[Delivery]:
        """Those that match, newest first."""

    def attempts(self, delivery_ids: Sequence[int]) -> list[DeliveryAttempt]:
        """The attempts of these deliveries, the oldest first."""

    def redeliver(self, delivery_id: int) -> Delivery | None:
        """Begin anew, due at once, unless it is under way; the delivery as it now is."""

    def replay(self, endpoint_id: str, since: int) -> int:
        """Begin anew everything that failed of what happened to an endpoint since then; how many that were."""

    def prune_tests(self, before: int, limit: int) -> int:
        """Delete tests that were sent before then; the other deliveries go with their jobs."""
