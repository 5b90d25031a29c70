"""Webhook endpoints and deliveries as clients see them."""

from __future__ import annotations

from api.ids import delivery_id
from api.webhook_schemas import DeliveryAttemptBody, DeliveryBody, EndpointBody, EndpointHealth
from ktqueue.outbox.base import DeliveryAttempt, Endpoint
from ktqueue.representation import path_of
from ktqueue.times import rfc3339
from ktqueue.webhook import event_id, titles_of
from ktqueue.webhooks import Health, Told

ENDPOINTS = "/api/v1/webhook-endpoints"
DELIVERIES = "/api/v1/deliveries"


def endpoint_body(endpoint: Endpoint, health: Health, secret: str | None = None) -> EndpointBody:
    """The JSON of an endpoint; with its secret, where that is to be shown."""
    path = f"{ENDPOINTS}/{endpoint.id}"
    body: EndpointBody = {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "url": endpoint.url,
        "events": titles_of(endpoint.events),
        "model": endpoint.model,
        "description": endpoint.description,
        "enabled": endpoint.disabled is None,
        "disabled_reason": endpoint.disabled,
        "created_at": rfc3339(endpoint.created_at),
        "health": _health(health),
        "links": {
            "self": path,
            "test": f"{path}/test",
            "rotate": f"{path}/rotate",
            "replay": f"{path}/replay",
            "deliveries": f"{DELIVERIES}?endpoint={endpoint.id}",
        },
    }
    if secret is not None:
        body["secret"] = secret
    return body


def _health(health: Health) -> EndpointHealth:
    return {
        "state": health.state,
        "failures": health.failures,
        "open_until": _time(health.open_until),
        "failing_since": _time(health.failing_since),
    }


def delivery_path(number: int) -> str:
    """Where a delivery is found."""
    return f"{DELIVERIES}/{delivery_id(number)}"


def delivery_body(told: Told, *, attempts: bool) -> DeliveryBody:
    """The JSON of a delivery; with the attempts it is told with, or without."""
    delivery, path = told.delivery, delivery_path(told.delivery.id)
    body: DeliveryBody = {
        "id": delivery_id(delivery.id),
        "object": "delivery",
        "event": {
            "id": event_id(delivery.job_id, delivery.seq, delivery.endpoint),
            "type": delivery.type.title,
            "timestamp": rfc3339(delivery.at),
        },
        "job": delivery.job_id or None,
        "endpoint": delivery.endpoint or None,
        "url": told.url,
        "state": delivery.state,
        "attempts": delivery.attempts,
        # While a request is under way it is when that one would be taken for lost.
        "next_attempt_at": None if delivery.token is not None else _time(delivery.next_at),
        "links": {
            "self": path,
            "job": path_of(delivery.job_id) if delivery.job_id else None,
            "redeliver": f"{path}/redeliver",
        },
    }
    if attempts:
        body["attempts_made"] = [_attempt(attempt) for attempt in told.attempts]
    return body


def _attempt(attempt: DeliveryAttempt) -> DeliveryAttemptBody:
    return {
        "number": attempt.number,
        "at": rfc3339(attempt.at),
        "duration_ms": attempt.duration_ms,
        "status": attempt.status,
        "error": attempt.error,
        "answer": attempt.answer,
    }


def _time(instant: int | None) -> str | None:
    return None if instant is None else rfc3339(instant)
