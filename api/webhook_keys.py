"""/api/v1/webhook-secret and /.well-known/webhook-keys: what receivers verify with."""

from __future__ import annotations

from flask import Flask, request

from api.answers import Answer, answer
from api.auth import tenant
from api.query import parameters
from api.services import ApiServices
from api.webhook_schemas import SecretBody


class WebhookKeys:
    """The service's default secret, and its public keys."""

    def __init__(self, services: ApiServices) -> None:
        self._webhooks = services.webhooks

    def register(self, app: Flask) -> None:
        """Add the routes."""
        app.add_url_rule("/api/v1/webhook-secret", "webhook_secret", self.secret, methods=["GET"])
        app.add_url_rule("/.well-known/webhook-keys", "webhook_keys", self.keys, methods=["GET"])

    def secret(self) -> Answer:
        """What the webhooks of jobs are signed with."""
        parameters(request)
        body: SecretBody = {"object": "webhook_secret", "secret": self._webhooks.default_secret(tenant())}
        return answer(body, headers={"Cache-Control": "no-store"})

    def keys(self) -> Answer:
        """What verifies the signature `v1a` of every webhook."""
        parameters(request)
        return answer({"keys": self._webhooks.public_keys()})
