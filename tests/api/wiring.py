"""The application over the memory implementations, and a client of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from werkzeug.test import TestResponse

from api.app import create_app
from ktqueue.access import Access, OpenAccess
from ktqueue.delivery import Deliveries
from ktqueue.following import Following
from ktqueue.intake import Intake
from ktqueue.job import JobError, JsonObject
from ktqueue.keys import Keys
from ktqueue.models import Catalogue, ModelSpec
from ktqueue.operating import Operating
from ktqueue.quotas import Quotas
from ktqueue.settings import Settings
from ktqueue.webhook import Answer
from ktqueue.webhook_addresses import AddressRules
from ktqueue.webhook_signing import Keyring
from ktqueue.webhooks import Webhooks
from tests.support.scene import Scene

JOBS = "/api/v1/jobs"
ENDPOINTS = "/api/v1/webhook-endpoints"
DELIVERIES = "/api/v1/deliveries"
NDJSON = "application/x-ndjson"
SECRET_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
ALLOWED = "receiver.internal"
"""A host that webhooks may go to though it is inside."""
HOOK = f"https://{ALLOWED}/hook"
TAKEN = Answer(200, None, 12, "thanks")
SOURCE = "hub:owner/name"
CATALOGUE = Catalogue(
    {
        "echo": ModelSpec(alias="echo", engine="echo", faults=True),
        "chat": ModelSpec(alias="chat", engine="causal", source=SOURCE, context=2048),
        "encoder": ModelSpec(alias="encoder", engine="encoder", source=SOURCE, tasks=("embed", "classify", "rerank")),
    }
)


@dataclass(frozen=True)
class Services:
    """What `create_app` takes."""

    settings: Settings
    access: Access
    keys: Keys
    quotas: Quotas
    catalogue: Catalogue
    intake: Intake
    operating: Operating
    following: Following
    webhooks: Webhooks


class Api:
    """The API over a `Scene`, whose clock stands still and whose parts can be taken away."""

    def __init__(self, *, access: Callable[[Api], Access] | None = None, **settings: Any) -> None:
        chosen = Settings(**settings)
        self.scene = Scene(
            max_queued=chosen.max_queued,
            max_queued_all=chosen.max_queued_all,
            max_queued_bytes=chosen.max_queued_bytes,
        )
        self.keyring = Keyring(SECRET_KEY)
        following = Following(self.scene.store, self.scene.events)
        rules = AddressRules(ALLOWED, chosen.webhook_ports)
        self.rung = 0
        webhooks = Webhooks(self.scene.store, self.scene.outbox, self.keyring, rules, self._ring)
        self.registry = self.scene.registry
        self.keys = Keys(self.registry)
        who = access(self) if access else OpenAccess()
        intake, operating = self.scene.intake, self.scene.operating
        self.services = Services(
            chosen, who, self.keys, self.scene.quotas, CATALOGUE, intake, operating, following, webhooks
        )
        self.app = create_app(self.services)
        self.client = self.app.test_client()

    def _ring(self) -> None:
        self.rung += 1

    def submit(self, body: Any, **headers: str) -> TestResponse:
        """POST one job; ``headers`` are named with underscores."""
        return self.client.post(JOBS, json=body, headers={name.replace("_", "-"): headers[name] for name in headers})

    def raw(self, body: bytes, **more: Any) -> TestResponse:
        """POST these bytes as a job."""
        return self.client.post(JOBS, **{"data": body, "content_type": "application/json", **more})

    def bulk(self, body: bytes, **more: Any) -> TestResponse:
        """POST these lines."""
        return self.client.post(f"{JOBS}:bulk", **{"data": body, "content_type": NDJSON, **more})

    def accepted(self, body: JsonObject | None = None) -> JsonObject:
        """A job that was submitted."""
        return json_of(self.submit(body or {"model": "echo", "input": {"say": "hi"}}), 202)

    def succeed(self, result: JsonObject | None = None) -> None:
        """Run every echo job that waits."""
        jobs = self.scene.claim()
        verdicts = [self.scene.execution.success(job, result or job.input, None, len(jobs)) for job in jobs]
        self.scene.execution.settle(verdicts)

    def fail(self) -> None:
        """Let every echo job that waits fail for good."""
        error = JobError("bad", "never", retryable=False)
        self.scene.execution.settle([self.scene.execution.failure(job, error) for job in self.scene.claim()])

    def endpoint(self, **given: Any) -> JsonObject:
        """A webhook endpoint that was registered."""
        return json_of(self.client.post(ENDPOINTS, json={"url": HOOK} | given), 201)

    def deliver(self, answer: Answer = TAKEN) -> int:
        """Send whatever is due to receivers that answer so; how many deliveries."""
        sender = Deliveries(
            self.scene.store,
            self.scene.outbox,
            self.keyring,
            sender="sender",
            most_each=100,
            lease_ms=30_000,
            disable_days=5,
        )
        taken = sender.claim(100, {}, "token")
        sender.settle([(dispatch, answer) for dispatch in taken])
        return len(taken)

    def job(self, job_id: str) -> JsonObject:
        """The job as it is now."""
        return json_of(self.client.get(f"{JOBS}/{job_id}"), 200)


def json_of(response: TestResponse, status: int) -> JsonObject:
    """The body of an answer that must have this status."""
    assert response.status_code == status, response.get_data(as_text=True)
    document = response.get_json()
    assert isinstance(document, dict)
    return document


def problem_of(response: TestResponse, status: int) -> JsonObject:
    """The problem in an answer that must have this status, and be a problem in every respect."""
    problem = json_of(response, status)
    assert response.content_type == "application/problem+json"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["code"]
    return problem
