"""What clients may do with webhooks: register endpoints, look at deliveries, send again. Called by the API."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ktqueue.errors import Conflict, NotFound
from ktqueue.job import uuid7_hex
from ktqueue.outbox.base import Delivery, DeliveryAttempt, DeliveryQuery, Endpoint, Outbox
from ktqueue.store.base import Store
from ktqueue.tenant import DEFAULT_TENANT
from ktqueue.webhook import TERMINAL, Disabled, EventType, Webhook
from ktqueue.webhook_addresses import AddressRules
from ktqueue.webhook_policy import DAY, Circuit
from ktqueue.webhook_signing import Keyring, new_secret

OLD_SECRET_MS = DAY
MOST_ENDPOINTS = 1_000
"""Of one tenant: each of them is looked at whenever a job changes."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be different about an endpoint; None leaves it as it is. ``any_model`` takes the filter away."""

    url: str | None = None
    events: EventType | None = None
    model: str | None = None
    any_model: bool = False
    description: str | None = None
    enabled: bool | None = None

    def made_to(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint with these changes."""
        return replace(
            endpoint,
            url=endpoint.url if self.url is None else self.url,
            events=endpoint.events if self.events is None else self.events,
            model=None if self.any_model else self.model or endpoint.model,
            description=endpoint.description if self.description is None else self.description,
            disabled=self._disabled(endpoint),
        )

    def _disabled(self, endpoint: Endpoint) -> Disabled | None:
        if self.enabled is None:
            return endpoint.disabled
        return None if self.enabled else endpoint.disabled or Disabled.OPERATOR


class CircuitState(StrEnum):
    """Whether an endpoint is sent what is due, nothing for now, or one delivery to see whether it is well again."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Health:
    """How an endpoint fares: so many ``failures`` in a row since ``failing_since``. Instants in Unix ms."""

    state: CircuitState = CircuitState.CLOSED
    failures: int = 0
    open_until: int | None = None
    failing_since: int | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """A delivery with the URL it goes to, and its attempts."""

    delivery: Delivery
    url: str
    attempts: Sequence[DeliveryAttempt] = ()


class Webhooks:
    """The use cases of the webhooks API; to a tenant, what is another's is not there. ``ring`` wakes a sender."""

    def __init__(
        self, store: Store, outbox: Outbox, keyring: Keyring, rules: AddressRules, ring: Callable[[], None]
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._keyring = keyring
        self._rules = rules
        self._ring = ring

    def webhook(self, url: str, events: EventType | None, *, field: str) -> Webhook:
        """The webhook of one job. Raises Invalid, naming ``field``, for a URL that may not be called."""
        return Webhook(url, self._rules.check_url(url, field=field).origin, TERMINAL if events is None else events)

    def create(
        self, url: str, events: EventType, model: str | None, description: str, tenant: str = DEFAULT_TENANT
    ) -> tuple[Endpoint, str]:
        """A new endpoint, and its secret, which is never shown again.

        Raises Invalid for a URL that may not be called, Conflict when there are as many endpoints as there may be.
        """
        self._rules.check_url(url, field="url")
        if len(self._outbox.endpoints_of(tenant)) >= MOST_ENDPOINTS:
            raise Conflict(f"there are {MOST_ENDPOINTS} webhook endpoints, the most there may be; delete one first")
        identity, secret = f"whe_{uuid7_hex()}", new_secret()
        sealed = self._keyring.seal(secret, identity)
        endpoint = Endpoint(
            identity, url, events, sealed, self._outbox.now(), model=model, description=description, tenant=tenant
        )
        self._outbox.add_endpoint(endpoint)
        return endpoint, secret

    def endpoint(self, endpoint_id: str, tenant: str = DEFAULT_TENANT) -> Endpoint:
        """The endpoint as it is now. Raises NotFound."""
        endpoint = self._outbox.endpoint(endpoint_id)
        if endpoint is None or endpoint.tenant != tenant:
            raise NotFound(f"there is no webhook endpoint {endpoint_id}")
        return endpoint

    def endpoints(self, tenant: str = DEFAULT_TENANT) -> list[Endpoint]:
        """All of a tenant's, the oldest first."""
        return self._outbox.endpoints_of(tenant)

    def health(self, endpoint_ids: Sequence[str]) -> dict[str, Health]:
        """How each of these endpoints fares."""
        now, circuits = self._outbox.now(), self._outbox.circuits(endpoint_ids)
        return {each: _health(circuits.get(each), now) for each in endpoint_ids}

    def change(self, endpoint_id: str, changes: Changes, tenant: str = DEFAULT_TENANT) -> Endpoint:
        """Raises NotFound, Invalid. One that is enabled starts with a clean slate."""
        self.endpoint(endpoint_id, tenant)
        if changes.url is not None:
            self._rules.check_url(changes.url, field="url")
        return self._change(endpoint_id, changes.made_to)

    def rotate(self, endpoint_id: str, tenant: str = DEFAULT_TENANT) -> tuple[Endpoint, str]:
        """A new secret; the one before is valid for another 24 hours. Raises NotFound."""
        self.endpoint(endpoint_id, tenant)
        secret = new_secret()
        sealed, until = self._keyring.seal(secret, endpoint_id), self._outbox.now() + OLD_SECRET_MS

        def rotated(endpoint: Endpoint) -> Endpoint:
            return replace(endpoint, secret=sealed, old_secret=endpoint.secret, old_secret_until=until)

        return self._change(endpoint_id, rotated), secret

    def _change(self, endpoint_id: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint:
        endpoint = self._outbox.change_endpoint(endpoint_id, change)
        if endpoint is None:
            raise NotFound(f"there is no webhook endpoint {endpoint_id}")
        return endpoint

    def delete(self, endpoint_id: str, tenant: str = DEFAULT_TENANT) -> None:
        """Forget an endpoint, and what it was or was to be told. Raises NotFound."""
        self.endpoint(endpoint_id, tenant)
        if not self._outbox.delete_endpoint(endpoint_id):
            raise NotFound(f"there is no webhook endpoint {endpoint_id}")

    def test(self, endpoint_id: str, tenant: str = DEFAULT_TENANT) -> Told:
        """Send an endpoint a test event. Raises NotFound; Conflict if it is disabled."""
        endpoint = self._enabled(endpoint_id, tenant)
        delivery = self._outbox.add_test(endpoint_id)
        if delivery is None:
            raise NotFound(f"there is no webhook endpoint {endpoint_id}")
        self._ring()
        return Told(delivery, endpoint.url)

    def replay(self, endpoint_id: str, since: int, tenant: str = DEFAULT_TENANT) -> int:
        """Send an endpoint everything that it missed since then; how many deliveries. Raises NotFound, Conflict."""
        self._enabled(endpoint_id, tenant)
        missed = self._outbox.replay(endpoint_id, since)
        self._ring()
        return missed

    def _enabled(self, endpoint_id: str, tenant: str) -> Endpoint:
        endpoint = self.endpoint(endpoint_id, tenant)
        if endpoint.disabled is not None:
            raise Conflict(f"webhook endpoint {endpoint_id} is disabled; enable it first")
        return endpoint

    def delivery(self, delivery_id: int, tenant: str = DEFAULT_TENANT) -> Told:
        """A delivery with its attempts. Raises NotFound."""
        delivery = self._outbox.delivery(delivery_id)
        if delivery is None or delivery.tenant != tenant:
            raise NotFound(f"there is no delivery dlv_{delivery_id}")
        return self._with_attempts([delivery])[0]

    def deliveries(self, query: DeliveryQuery) -> list[Told]:
        """Those that match, newest first, without their attempts."""
        return self._told(self._outbox.deliveries(query))

    def of_job(self, query: DeliveryQuery) -> list[Told]:
        """What is told of the job that ``query`` names, newest first, with attempts. Raises NotFound."""
        job = None if query.job_id is None else self._store.get(query.job_id)
        if job is None or query.tenant not in {None, job.tenant}:
            raise NotFound(f"there is no job {query.job_id}")
        return self._with_attempts(self._outbox.deliveries(query))

    def redeliver(self, delivery_id: int, tenant: str = DEFAULT_TENANT) -> Told:
        """Send once more, at once. Raises NotFound; Conflict if its endpoint is disabled."""
        told = self.delivery(delivery_id, tenant)
        if told.delivery.endpoint:
            self._enabled(told.delivery.endpoint, tenant)
        again = self._outbox.redeliver(delivery_id)
        if again is None:
            raise NotFound(f"there is no delivery dlv_{delivery_id}")
        self._ring()
        return replace(told, delivery=again)

    def default_secret(self, tenant: str = DEFAULT_TENANT) -> str:
        """What the webhooks of a tenant's jobs are signed with, as ``whsec_…``."""
        return self._keyring.default_secret(tenant)

    def public_keys(self) -> list[dict[str, str]]:
        """What verifies the signatures of every webhook."""
        return self._keyring.public_keys()

    def _with_attempts(self, deliveries: Sequence[Delivery]) -> list[Told]:
        attempts = defaultdict[int, list[DeliveryAttempt]](list)
        for attempt in self._outbox.attempts([delivery.id for delivery in deliveries]):
            attempts[attempt.delivery_id].append(attempt)
        return [replace(told, attempts=attempts[told.delivery.id]) for told in self._told(deliveries)]

    def _told(self, deliveries: Sequence[Delivery]) -> list[Told]:
        endpoints = self._outbox.endpoints(sorted({each.endpoint for each in deliveries} - {""}))
        urls = {endpoint.id: endpoint.url for endpoint in endpoints}
        # Only a job's own webhook is found in its row, and each row may be large.
        for job_id in {each.job_id for each in deliveries if not each.endpoint}:
            job = self._store.get(job_id)
            urls[job_id] = (job.webhook_url if job else None) or ""
        return [Told(each, urls.get(each.endpoint or each.job_id, "")) for each in deliveries]


def _health(circuit: Circuit | None, now: int) -> Health:
    if circuit is None:
        return Health()
    state = CircuitState.HALF_OPEN if circuit.probing else CircuitState.CLOSED
    if circuit.open_until > now:
        state = CircuitState.OPEN
    return Health(state, circuit.failures, circuit.open_until or None, circuit.failing_since)
