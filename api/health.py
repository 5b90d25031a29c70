"""/healthz: this process is alive. /readyz: the database and Redis were really asked."""

from __future__ import annotations

from http import HTTPStatus

from flask import Flask, Response

from api.answers import answer
from api.errors import UNAVAILABLE_RETRY_AFTER_S, problem
from api.schemas import Health, Readiness
from api.services import ApiServices


class HealthResource:
    """For supervisors, load balancers and people."""

    def __init__(self, services: ApiServices) -> None:
        self._intake = services.intake

    def register(self, app: Flask) -> None:
        """Add the routes."""
        app.add_url_rule("/healthz", "healthz", self.alive, methods=["GET"])
        app.add_url_rule("/readyz", "readyz", self.ready, methods=["GET"])

    def alive(self) -> Response:
        """No input or output: only that this thread got here."""
        body: Health = {"status": "ok"}
        return answer(body)

    def ready(self) -> Response:
        """200, or 503 with what does not answer."""
        checks = self._intake.ping()
        wrong = [f"{name}: {said}" for name, said in checks.items() if said != "ok"]
        if wrong:
            response = problem(HTTPStatus.SERVICE_UNAVAILABLE, "; ".join(wrong), "not_ready", checks=checks)
            response.headers["Retry-After"] = str(UNAVAILABLE_RETRY_AFTER_S)
            return response
        body: Readiness = {"status": "ready", "checks": checks}
        return answer(body)
