"""/api/v1/models and /api/v1/lanes: what there is to ask, and how much waits for it."""

from __future__ import annotations

from flask import Flask, request

from api.answers import Answer, answer
from api.query import parameters, tokens
from api.schemas import LaneBody, LaneCapacity, LaneList, ModelBody, ModelList
from api.services import ApiServices
from ktqueue.intake import LaneStatus
from ktqueue.models import ModelSpec
from ktqueue.room import ANSWER_TOKENS, PROMPT_TOKENS, Room


class CatalogueResource:
    """Models and their lanes."""

    def __init__(self, services: ApiServices) -> None:
        self._catalogue = services.catalogue
        self._intake = services.intake

    def register(self, app: Flask) -> None:
        """Add the routes."""
        app.add_url_rule("/api/v1/models", "models", self.models, methods=["GET"])
        app.add_url_rule("/api/v1/lanes", "lanes", self.lanes, methods=["GET"])

    def models(self) -> Answer:
        """Every model of models.toml."""
        parameters(request)
        data = [_model(spec) for spec in self._catalogue.values()]
        body: ModelList = {"object": "list", "data": data, "next_cursor": None}
        return answer(body)

    def lanes(self) -> Answer:
        """Every lane, the idle ones too; what a slot holds is told for prompts and answers of the lengths asked for."""
        given = parameters(request, "prompt_tokens", "answer_tokens")
        prompt_tokens = tokens(given, "prompt_tokens", PROMPT_TOKENS)
        answer_tokens = tokens(given, "answer_tokens", ANSWER_TOKENS)
        data = [_lane(status, prompt_tokens, answer_tokens) for status in self._intake.lanes(list(self._catalogue))]
        body: LaneList = {"object": "list", "data": data, "next_cursor": None}
        return answer(body)


def _model(spec: ModelSpec) -> ModelBody:
    return {
        "id": spec.alias,
        "object": "model",
        "tasks": list(spec.offers),
        "engine": spec.engine,
        "limits": {"context": spec.context, "max_batch": spec.max_batch},
    }


def _lane(status: LaneStatus, prompt_tokens: int, answer_tokens: int) -> LaneBody:
    return {
        "model": status.model,
        "object": "lane",
        "depth": status.depth,
        "running": status.running,
        "throughput": None if status.rate is None else round(status.rate, 3),
        "oldest_wait_seconds": status.oldest_wait_s,
        "capacity": None if status.room is None else _capacity(status.room, prompt_tokens, answer_tokens),
    }


def _capacity(room: Room, prompt_tokens: int, answer_tokens: int) -> LaneCapacity:
    return {
        "jobs": room.jobs,
        "cache_tokens": room.tokens,
        "block_tokens": room.block_tokens,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "jobs_at_once": room.at_once(prompt_tokens, answer_tokens),
    }
