"""The operations on webhooks: `AsyncClient.webhooks` is these; `Client.webhooks` runs these."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Any, Unpack
from urllib.parse import quote

from ktqueue.client.errors import WaitTimeout
from ktqueue.client.paging import items
from ktqueue.client.patience import Patience, Rounds
from ktqueue.client.sending import Sender
from ktqueue.client.values import Job, rfc3339
from ktqueue.client.webhook_values import (
    Delivery,
    EndpointChanges,
    Replay,
    Secret,
    WebhookEndpoint,
    WebhookKey,
    WebhookKeys,
)
from ktqueue.client.wire import Io, Request
from ktqueue.webhook import DeliveryState

ENDPOINTS = "/api/v1/webhook-endpoints"
DELIVERIES = "/api/v1/deliveries"
JSON = {"Content-Type": "application/json"}


class WebhookOperations:
    """What a client may do with webhooks, over any `Io`."""

    def __init__(self, io: Io, sender: Sender) -> None:
        self._io = io
        self._sender = sender

    # --- endpoints ---

    async def create(
        self, url: str, *, events: Sequence[str] | None = None, model: str | None = None, description: str = ""
    ) -> WebhookEndpoint:
        """Register ``url`` for events (those that end a job, if none are named). The answer alone has its secret.

        Raises InvalidRequest for a URL that the server may not call.
        """
        body = {"url": url, "events": events, "model": model, "description": description or None}
        given = {key: value for key, value in body.items() if value is not None}
        request = Request("POST", ENDPOINTS, headers=JSON, body=_json(given), repeatable=False)
        return (await self._sender.call(request)).value(WebhookEndpoint)

    async def list(self) -> Sequence[WebhookEndpoint]:
        """Every endpoint, the oldest first."""
        return (await self._sender.call(Request("GET", ENDPOINTS))).values(WebhookEndpoint)

    async def get(self, endpoint: WebhookEndpoint | str) -> WebhookEndpoint:
        """The endpoint as it is now. Raises NotFound."""
        return (await self._sender.call(Request("GET", _endpoint(endpoint)))).value(WebhookEndpoint)

    async def update(self, endpoint: WebhookEndpoint | str, **changes: Unpack[EndpointChanges]) -> WebhookEndpoint:
        """Change what is named; ``model=None`` takes the filter away. Raises NotFound, InvalidRequest."""
        request = Request("PATCH", _endpoint(endpoint), headers=JSON, body=_json(changes))
        return (await self._sender.call(request)).value(WebhookEndpoint)

    async def delete(self, endpoint: WebhookEndpoint | str) -> None:
        """Forget an endpoint and its deliveries. Raises NotFound."""
        await self._sender.delete(_endpoint(endpoint))

    async def rotate(self, endpoint: WebhookEndpoint | str) -> WebhookEndpoint:
        """Give it a new secret, which the answer alone has; the old one is valid for 24 hours. Raises NotFound."""
        request = Request("POST", _endpoint(endpoint, "/rotate"), repeatable=False)
        return (await self._sender.call(request)).value(WebhookEndpoint)

    async def test(self, endpoint: WebhookEndpoint | str) -> Delivery:
        """Send it a test event; `attempted` tells what comes of it. Raises NotFound; Conflict if it is disabled."""
        request = Request("POST", _endpoint(endpoint, "/test"), repeatable=False)
        return (await self._sender.call(request)).value(Delivery)

    async def replay(self, endpoint: WebhookEndpoint | str, since: datetime) -> int:
        """Send everything again that it missed since then: how many deliveries. Raises NotFound, Conflict."""
        body = _json({"since": rfc3339(since)})
        request = Request("POST", _endpoint(endpoint, "/replay"), headers=JSON, body=body, repeatable=False)
        return (await self._sender.call(request)).value(Replay).deliveries

    # --- deliveries ---

    def deliveries(
        self, *, endpoint: WebhookEndpoint | str | None = None, state: str | None = None
    ) -> AsyncGenerator[Delivery, None]:
        """Deliveries that match, newest first, without their attempts; fetches the next page when it is needed."""
        query = [("endpoint", _id(endpoint))] if endpoint is not None else []
        query += [("state", state)] if state is not None else []
        return items(self._sender, DELIVERIES, query, Delivery)

    def of_job(self, job: Job | str) -> AsyncGenerator[Delivery, None]:
        """What is told of one job, newest first, with every attempt. Raises NotFound."""
        return items(self._sender, f"/api/v1/jobs/{quote(_id(job), safe='')}/deliveries", [], Delivery)

    async def delivery(self, delivery: Delivery | str) -> Delivery:
        """The delivery as it is now, with every attempt. Raises NotFound."""
        return (await self._sender.call(Request("GET", _delivery(delivery)))).value(Delivery)

    async def redeliver(self, delivery: Delivery | str) -> Delivery:
        """Send it once more, at once; `attempted` tells what comes of it. Raises NotFound, Conflict."""
        request = Request("POST", _delivery(delivery, "/redeliver"), repeatable=False)
        return (await self._sender.call(request)).value(Delivery)

    async def attempted(self, delivery: Delivery, timeout: float | None = None) -> Delivery:  # noqa: ASYNC109
        """A pending delivery once it was attempted again, however that went. Raises WaitTimeout, NotFound."""
        patience = Patience(self._io.now, timeout)
        rounds = Rounds()
        while True:
            seen = await self.delivery(delivery)
            if seen.attempts > delivery.attempts or seen.state is not DeliveryState.PENDING:
                return seen
            if patience.over():
                raise WaitTimeout([delivery.id])
            await self._io.sleep(min(patience.left(), rounds.pause(1, 1)))

    # --- what receivers verify with ---

    async def secret(self) -> str:
        """What the webhooks of jobs are signed with, as ``whsec_…``."""
        return (await self._sender.call(Request("GET", "/api/v1/webhook-secret"))).value(Secret).secret

    async def public_keys(self) -> Sequence[WebhookKey]:
        """The public keys that verify the signatures of every webhook, the current one first."""
        return (await self._sender.call(Request("GET", "/.well-known/webhook-keys"))).value(WebhookKeys).keys


def _json(document: Any) -> bytes:
    return json.dumps(document, allow_nan=False).encode()


def _id(thing: Job | WebhookEndpoint | Delivery | str) -> str:
    return thing if isinstance(thing, str) else thing.id


def _endpoint(endpoint: WebhookEndpoint | str, action: str = "") -> str:
    return f"{ENDPOINTS}/{quote(_id(endpoint), safe='')}{action}"


def _delivery(delivery: Delivery | str, action: str = "") -> str:
    return f"{DELIVERIES}/{quote(_id(delivery), safe='')}{action}"
