"""/api/v1/models: what there is to ask."""

from __future__ import annotations

from flask import Flask, request

from api.answers import Answer, answer
from api.query import parameters
from api.schemas import ModelBody, ModelList
from api.services import ApiServices
from ktqueue.models import ModelSpec


class CatalogueResource:
    """The resource."""

    def __init__(self, services: ApiServices) -> None:
        self._catalogue = services.catalogue

    def register(self, app: Flask) -> None:
        """Add the route."""
        app.add_url_rule("/api/v1/models", "models", self.models, methods=["GET"])

    def models(self) -> Answer:
        """Every model of models.toml."""
        parameters(request)
        data = [_model(spec) for spec in self._catalogue.values()]
        body: ModelList = {"object": "list", "data": data, "next_cursor": None}
        return answer(body)


def _model(spec: ModelSpec) -> ModelBody:
    return {
        "id": spec.alias,
        "object": "model",
        "tasks": list(spec.offers),
        "engine": spec.engine,
        "limits": {"context": spec.context, "max_batch": spec.most_jobs},
    }
