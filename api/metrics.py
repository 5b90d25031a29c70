"""/metrics: everything that is counted here, for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flask import Flask, request
from prometheus_client.registry import Collector

from api.answers import Answer
from api.exposition import Machine, Shared, expose
from api.query import parameters
from api.queue_metrics import QueueMetrics
from api.services import ApiServices


class Metrics:
    """The resource. ``folder`` is where this process and others count; without one only the rest is told."""

    def __init__(self, services: ApiServices, folder: Path | None) -> None:
        queue = QueueMetrics(services.operating, list(services.catalogue))
        counted = [] if folder is None else [Shared(folder)]
        self._collectors: Sequence[Collector] = [queue, Machine(), *counted]

    def register(self, app: Flask) -> None:
        """Add the route."""
        app.add_url_rule("/metrics", "metrics", self.get, methods=["GET"])

    def get(self) -> Answer:
        """All of it, as text or as OpenMetrics."""
        parameters(request)
        body, media = expose(self._collectors, request.headers.get("Accept", ""))
        return Answer(body, 200, {"Cache-Control": "no-store"}, content_type=media)
