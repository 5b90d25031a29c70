"""The operations on webhooks, as the OpenAPI document tells of them."""

from __future__ import annotations

from functools import partial

from api.deliveries import DEFAULT_DELIVERIES, MOST_DELIVERIES
from api.inputs import EndpointChanges, EndpointRequest, ReplayRequest
from api.operation import JOB_ID, Operation, Reply, parameter
from api.webhook_bodies import DELIVERIES, ENDPOINTS
from api.webhook_schemas import (
    DeliveryBody,
    DeliveryList,
    EndpointBody,
    EndpointList,
    EventBody,
    ReplayBody,
    SecretBody,
    WebhookKeys,
)
from ktqueue.representation import JOBS
from ktqueue.tenant import Scope
from ktqueue.webhook import DeliveryState

ENDPOINT = {"type": "string", "pattern": "^whe_[0-9a-f]{32}$"}
ENDPOINT_ID = parameter("path", "endpoint_id", ENDPOINT, "The endpoint's id.")
DELIVERY_ID = parameter(
    "path", "delivery_id", {"type": "string", "pattern": "^dlv_[1-9][0-9]{0,17}$"}, "The delivery's id."
)
PAGES = [
    parameter(
        "query",
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MOST_DELIVERIES, "default": DEFAULT_DELIVERIES},
        "Most deliveries on this page.",
    ),
    parameter("query", "cursor", {"type": "string"}, "`next_cursor` of the page before."),
]
FILTERS = [
    parameter("query", "endpoint", ENDPOINT, "Deliveries to this endpoint."),
    parameter(
        "query",
        "state",
        {"type": "string", "enum": [state.value for state in DeliveryState]},
        "Deliveries in this state.",
    ),
    *PAGES,
]
SENDING = Reply("It is sent as soon as a sender is free.", DeliveryBody, headers={"Location": "Where the delivery is."})
UNSTORED = {"Cache-Control": "`no-store`: it holds a secret."}

EVENT = Operation(
    "post",
    "",
    "event",
    "webhooks",
    "What endpoints and the webhooks of jobs are sent, signed as Standard Webhooks has it",
    replies={200: Reply("It is taken, as by any 2xx."), 410: Reply("Nothing more is to be sent here.")},
    parameters=[
        parameter("header", "webhook-id", {"type": "string"}, "The event's id, the same in every attempt."),
        parameter("header", "webhook-timestamp", {"type": "string"}, "When this attempt was made, in Unix seconds."),
        parameter("header", "webhook-signature", {"type": "string"}, "Signatures `v1,…` and `v1a,…`, space-separated."),
    ],
    body=EventBody,
    scope=None,
)
"""Not of this API: of whoever receives."""

_operation = partial(Operation, tag="webhooks")

WEBHOOK_OPERATIONS = [
    _operation(
        "post",
        ENDPOINTS,
        "createWebhookEndpoint",
        summary="Register an endpoint",
        replies={
            201: Reply(
                "The endpoint, with its secret, which is never told again.",
                EndpointBody,
                headers={"Location": "Where the endpoint is.", **UNSTORED},
            )
        },
        problems=(400, 404, 408, 409, 413, 415, 422, 503),
        body=EndpointRequest,
        scope=Scope.WEBHOOKS_WRITE,
    ),
    _operation(
        "get",
        ENDPOINTS,
        "listWebhookEndpoints",
        summary="List the endpoints",
        replies={200: Reply("All of them, the oldest first.", EndpointList)},
        problems=(422, 503),
        scope=Scope.WEBHOOKS_READ,
    ),
    _operation(
        "get",
        f"{ENDPOINTS}/{{endpoint_id}}",
        "getWebhookEndpoint",
        summary="Look at an endpoint",
        replies={200: Reply("The endpoint.", EndpointBody)},
        problems=(404, 422, 503),
        parameters=[ENDPOINT_ID],
        scope=Scope.WEBHOOKS_READ,
    ),
    _operation(
        "patch",
        f"{ENDPOINTS}/{{endpoint_id}}",
        "changeWebhookEndpoint",
        summary="Change an endpoint, disable or enable it",
        replies={200: Reply("The endpoint as it now is.", EndpointBody)},
        problems=(400, 404, 408, 413, 415, 422, 503),
        parameters=[ENDPOINT_ID],
        body=EndpointChanges,
        scope=Scope.WEBHOOKS_WRITE,
    ),
    _operation(
        "delete",
        f"{ENDPOINTS}/{{endpoint_id}}",
        "deleteWebhookEndpoint",
        summary="Forget an endpoint and its deliveries",
        replies={204: Reply("It is forgotten.")},
        problems=(404, 422, 503),
        parameters=[ENDPOINT_ID],
        scope=Scope.WEBHOOKS_WRITE,
    ),
    _operation(
        "post",
        f"{ENDPOINTS}/{{endpoint_id}}/rotate",
        "rotateWebhookSecret",
        summary="Give an endpoint a new secret; the one before is valid for another 24 hours",
        replies={200: Reply("The endpoint, with its new secret.", EndpointBody, headers=UNSTORED)},
        problems=(404, 422, 503),
        parameters=[ENDPOINT_ID],
        scope=Scope.WEBHOOKS_WRITE,
    ),
    _operation(
        "post",
        f"{ENDPOINTS}/{{endpoint_id}}/test",
        "testWebhookEndpoint",
        summary="Send an endpoint a test event",
        replies={202: SENDING},
        problems=(404, 409, 422, 503),
        parameters=[ENDPOINT_ID],
        scope=Scope.WEBHOOKS_WRITE,
    ),
    _operation(
        "post",
        f"{ENDPOINTS}/{{endpoint_id}}/replay",
        "replayWebhooks",
        summary="Send an endpoint everything again that it missed since a time",
        replies={200: Reply("How many deliveries are pending again.", ReplayBody)},
        problems=(400, 404, 408, 409, 413, 415, 422, 503),
        parameters=[ENDPOINT_ID],
        body=ReplayRequest,
        scope=Scope.WEBHOOKS_WRITE,
    ),
    _operation(
        "get",
        DELIVERIES,
        "listDeliveries",
        summary="List deliveries, newest first",
        replies={200: Reply("A page.", DeliveryList)},
        problems=(400, 422, 503),
        parameters=FILTERS,
        scope=Scope.WEBHOOKS_READ,
    ),
    _operation(
        "get",
        f"{DELIVERIES}/{{delivery_id}}",
        "getDelivery",
        summary="Look at a delivery and its attempts",
        replies={200: Reply("The delivery.", DeliveryBody)},
        problems=(404, 422, 503),
        parameters=[DELIVERY_ID],
        scope=Scope.WEBHOOKS_READ,
    ),
    _operation(
        "post",
        f"{DELIVERIES}/{{delivery_id}}/redeliver",
        "redeliver",
        summary="Send a delivery once more",
        replies={202: SENDING},
        problems=(404, 409, 422, 503),
        parameters=[DELIVERY_ID],
        scope=Scope.WEBHOOKS_WRITE,
    ),
    _operation(
        "get",
        f"{JOBS}/{{job_id}}/deliveries",
        "listJobDeliveries",
        summary="What is told of a job, newest first, with every attempt",
        replies={200: Reply("A page.", DeliveryList)},
        problems=(400, 404, 422, 503),
        parameters=[JOB_ID, *PAGES],
        scope=Scope.WEBHOOKS_READ,
    ),
    _operation(
        "get",
        "/api/v1/webhook-secret",
        "getWebhookSecret",
        summary="What the webhooks of jobs are signed with",
        replies={200: Reply("The secret.", SecretBody, headers=UNSTORED)},
        problems=(422,),
        scope=Scope.WEBHOOKS_WRITE,
    ),
    _operation(
        "get",
        "/.well-known/webhook-keys",
        "getWebhookKeys",
        summary="What verifies the signature `v1a` of every webhook",
        replies={200: Reply("The keys, the current one first.", WebhookKeys)},
        problems=(422,),
        scope=None,
    ),
]
