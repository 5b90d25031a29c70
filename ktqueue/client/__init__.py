"""The Python client: `Client`, and `AsyncClient` with the same methods for asyncio."""

from __future__ import annotations

from ktqueue.client.aio import AsyncClient
from ktqueue.client.errors import (
    ApiError,
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    JobCancelled,
    JobEnded,
    JobExpired,
    JobFailed,
    KtqueueClientError,
    NotFound,
    RateLimited,
    ServerError,
    Unavailable,
    WaitTimeout,
)
from ktqueue.client.operator_values import Purge, UsageDay, Worker
from ktqueue.client.sync import Client
from ktqueue.client.values import (
    Capacity,
    Event,
    Instance,
    Job,
    JobOptions,
    JobSpec,
    Lane,
    Model,
    Receipt,
    ReceiptAttempt,
    Submitted,
    Webhook,
    WebhookOptions,
)
from ktqueue.client.webhook_values import Delivery, DeliveryAttempt, EndpointChanges, WebhookEndpoint, WebhookKey

__all__ = [
    "ApiError",
    "AsyncClient",
    "Capacity",
    "Client",
    "Conflict",
    "ConnectionFailed",
    "Delivery",
    "DeliveryAttempt",
    "EndpointChanges",
    "Event",
    "Instance",
    "InvalidRequest",
    "Job",
    "JobCancelled",
    "JobEnded",
    "JobExpired",
    "JobFailed",
    "JobOptions",
    "JobSpec",
    "KtqueueClientError",
    "Lane",
    "Model",
    "NotFound",
    "Purge",
    "RateLimited",
    "Receipt",
    "ReceiptAttempt",
    "ServerError",
    "Submitted",
    "Unavailable",
    "UsageDay",
    "WaitTimeout",
    "Webhook",
    "WebhookEndpoint",
    "WebhookKey",
    "WebhookOptions",
    "Worker",
]
