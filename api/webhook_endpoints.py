"""/api/v1/webhook-endpoints: register, look, list, change, delete; a new secret, a test, and what was missed."""

from __future__ import annotations

from typing import Any

from flask import Flask, request

from api.answers import JSON, Answer, answer
from api.auth import tenant
from api.body import decode, read, require_type
from api.errors import as_broken_rules
from api.ids import checked_endpoint
from api.inputs import EndpointChanges, EndpointRequest, ReplayRequest
from api.query import parameters
from api.services import ApiServices
from api.shapes import Shape
from api.webhook_bodies import ENDPOINTS, delivery_body, delivery_path, endpoint_body
from api.webhook_schemas import EndpointList, ReplayBody
from ktqueue.outbox.base import Endpoint
from ktqueue.webhook import TERMINAL
from ktqueue.webhooks import Changes, Health

MOST_BYTES = 65_536
REQUEST, CHANGES, REPLAY = Shape(EndpointRequest), Shape(EndpointChanges), Shape(ReplayRequest)
UNSTORED = {"Cache-Control": "no-store"}
"""Of answers that hold a secret."""


class WebhookEndpoints:
    """The resource."""

    def __init__(self, services: ApiServices) -> None:
        self._webhooks = services.webhooks
        self._catalogue = services.catalogue

    def register(self, app: Flask) -> None:
        """Add the routes."""
        one = f"{ENDPOINTS}/<endpoint_id>"
        app.add_url_rule(ENDPOINTS, "create_endpoint", self.create, methods=["POST"])
        app.add_url_rule(ENDPOINTS, "list_endpoints", self.list, methods=["GET"])
        app.add_url_rule(one, "get_endpoint", self.get, methods=["GET"])
        app.add_url_rule(one, "change_endpoint", self.change, methods=["PATCH"])
        app.add_url_rule(one, "delete_endpoint", self.delete, methods=["DELETE"])
        app.add_url_rule(f"{one}/rotate", "rotate_secret", self.rotate, methods=["POST"])
        app.add_url_rule(f"{one}/test", "test_endpoint", self.test, methods=["POST"])
        app.add_url_rule(f"{one}/replay", "replay", self.replay, methods=["POST"])

    def create(self) -> Answer:
        """Register an endpoint; its secret is told this once."""
        parameters(request)
        asked = REQUEST.parse(_document())
        model = self._known(asked.get("model"))
        with as_broken_rules():
            endpoint, secret = self._webhooks.create(
                asked["url"], asked.get("events", TERMINAL), model, asked.get("description", ""), tenant()
            )
        body = endpoint_body(endpoint, Health(), secret)
        return answer(body, 201, {"Location": body["links"]["self"]} | UNSTORED)

    def list(self) -> Answer:
        """Every endpoint, the oldest first."""
        parameters(request)
        endpoints = self._webhooks.endpoints(tenant())
        health = self._webhooks.health([endpoint.id for endpoint in endpoints])
        data = [endpoint_body(endpoint, health[endpoint.id]) for endpoint in endpoints]
        body: EndpointList = {"object": "list", "data": data, "next_cursor": None}
        return answer(body)

    def get(self, endpoint_id: str) -> Answer:
        """An endpoint as it is."""
        parameters(request)
        return self._told(self._webhooks.endpoint(checked_endpoint(endpoint_id), tenant()))

    def change(self, endpoint_id: str) -> Answer:
        """Change what is given of an endpoint."""
        parameters(request)
        identity, asked = checked_endpoint(endpoint_id), CHANGES.parse(_document())
        changes = Changes(
            url=asked.get("url"),
            events=asked.get("events"),
            model=self._known(asked.get("model")),
            any_model="model" in asked and asked["model"] is None,
            description=asked.get("description"),
            enabled=asked.get("enabled"),
        )
        with as_broken_rules():
            endpoint = self._webhooks.change(identity, changes, tenant())
        return self._told(endpoint)

    def delete(self, endpoint_id: str) -> Answer:
        """Forget an endpoint, and what it was or was to be told."""
        parameters(request)
        self._webhooks.delete(checked_endpoint(endpoint_id), tenant())
        return Answer(b"", 204)

    def rotate(self, endpoint_id: str) -> Answer:
        """A new secret, told this once."""
        parameters(request)
        identity = checked_endpoint(endpoint_id)
        # First, for once there is a new secret nothing may keep it from being told.
        health = self._webhooks.health([identity])[identity]
        endpoint, secret = self._webhooks.rotate(identity, tenant())
        return answer(endpoint_body(endpoint, health, secret), headers=UNSTORED)

    def test(self, endpoint_id: str) -> Answer:
        """Send a test event."""
        parameters(request)
        told = self._webhooks.test(checked_endpoint(endpoint_id), tenant())
        return answer(delivery_body(told, attempts=False), 202, {"Location": delivery_path(told.delivery.id)})

    def replay(self, endpoint_id: str) -> Answer:
        """Send everything again that was missed since a time."""
        parameters(request)
        identity, asked = checked_endpoint(endpoint_id), REPLAY.parse(_document())
        body: ReplayBody = {"object": "replay", "deliveries": self._webhooks.replay(identity, asked["since"], tenant())}
        return answer(body)

    def _told(self, endpoint: Endpoint) -> Answer:
        return answer(endpoint_body(endpoint, self._webhooks.health([endpoint.id])[endpoint.id]))

    def _known(self, model: str | None) -> str | None:
        """The alias, if the catalogue has it. Raises UnknownModel."""
        return None if model is None else self._catalogue[model].alias


def _document() -> Any:
    require_type(request, JSON)
    return decode(read(request, MOST_BYTES))
