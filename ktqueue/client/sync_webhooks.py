"""The webhooks of the synchronous client: each method runs the operation of the same name to its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Unpack

from ktqueue.client.values import Job
from ktqueue.client.webhook_values import Delivery, EndpointChanges, WebhookEndpoint, WebhookKey
from ktqueue.client.webhooks import WebhookOperations
from ktqueue.client.wire import iterate, run


class SyncWebhooks:
    """What a blocking client may do with webhooks; `WebhookOperations` says more of each method."""

    def __init__(self, operations: WebhookOperations) -> None:
        self._operations = operations

    def create(
        self, url: str, *, events: Sequence[str] | None = None, model: str | None = None, description: str = ""
    ) -> WebhookEndpoint:
        """Register ``url`` for events (those that end a job, if none are named). The answer alone has its secret."""
        return run(self._operations.create(url, events=events, model=model, description=description))

    def list(self) -> Sequence[WebhookEndpoint]:
        """Every endpoint, the oldest first."""
        return run(self._operations.list())

    def get(self, endpoint: WebhookEndpoint | str) -> WebhookEndpoint:
        """The endpoint as it is now. Raises NotFound."""
        return run(self._operations.get(endpoint))

    def update(self, endpoint: WebhookEndpoint | str, **changes: Unpack[EndpointChanges]) -> WebhookEndpoint:
        """Change what is named; ``model=None`` takes the filter away. Raises NotFound, InvalidRequest."""
        return run(self._operations.update(endpoint, **changes))

    def delete(self, endpoint: WebhookEndpoint | str) -> None:
        """Forget an endpoint and its deliveries. Raises NotFound."""
        run(self._operations.delete(endpoint))

    def rotate(self, endpoint: WebhookEndpoint | str) -> WebhookEndpoint:
        """Give it a new secret, which the answer alone has; the old one is valid for 24 hours. Raises NotFound."""
        return run(self._operations.rotate(endpoint))

    def test(self, endpoint: WebhookEndpoint | str) -> Delivery:
        """Send it a test event; `attempted` tells what comes of it. Raises NotFound; Conflict if it is disabled."""
        return run(self._operations.test(endpoint))

    def replay(self, endpoint: WebhookEndpoint | str, since: datetime) -> int:
        """Send everything again that it missed since then: how many deliveries. Raises NotFound, Conflict."""
        return run(self._operations.replay(endpoint, since))

    def deliveries(
        self, *, endpoint: WebhookEndpoint | str | None = None, state: str | None = None
    ) -> Iterator[Delivery]:
        """Deliveries that match, newest first, without their attempts; fetches the next page when it is needed."""
        return iterate(self._operations.deliveries(endpoint=endpoint, state=state))

    def of_job(self, job: Job | str) -> Iterator[Delivery]:
        """What is told of one job, newest first, with every attempt. Raises NotFound."""
        return iterate(self._operations.of_job(job))

    def delivery(self, delivery: Delivery | str) -> Delivery:
        """The delivery as it is now, with every attempt. Raises NotFound."""
        return run(self._operations.delivery(delivery))

    def redeliver(self, delivery: Delivery | str) -> Delivery:
        """Send it once more, at once; `attempted` tells what comes of it. Raises NotFound, Conflict."""
        return run(self._operations.redeliver(delivery))

    def attempted(self, delivery: Delivery, timeout: float | None = None) -> Delivery:
        """A pending delivery once it was attempted again, however that went. Raises WaitTimeout, NotFound."""
        return run(self._operations.attempted(delivery, timeout))

    def secret(self) -> str:
        """What the webhooks of jobs are signed with, as ``whsec_…``."""
        return run(self._operations.secret())

    def public_keys(self) -> Sequence[WebhookKey]:
        """The public keys that verify the signatures of every webhook, the current one first."""
        return run(self._operations.public_keys())
