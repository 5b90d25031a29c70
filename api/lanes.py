"""/api/v1/lanes: how much waits for each model, and what operators order of its queue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flask import Flask, request

from api.answers import JSON, Answer, answer
from api.body import decode, read, require_type
from api.lane_inputs import LaneChanges, MoveRequest, PurgeRequest
from api.lane_schemas import LaneBody, LaneCapacity, LaneEtaError, LaneList, PurgeBody
from api.query import parameters, tokens
from api.services import ApiServices
from api.shapes import Shape
from api.workers import instance_body
from ktqueue.control import UNCONTROLLED, LaneControl, LaneMode
from ktqueue.intake import LaneStatus
from ktqueue.lanes.accuracy import Accuracy
from ktqueue.operating import Purge
from ktqueue.room import ANSWER_TOKENS, PROMPT_TOKENS, Room
from ktqueue.store.base import Queued

LANES = "/api/v1/lanes"
MOST_BYTES = 65_536
CHANGES, MOVE, PURGE = Shape(LaneChanges), Shape(MoveRequest), Shape(PurgeRequest)


class Lanes:
    """The resource."""

    def __init__(self, services: ApiServices) -> None:
        self._catalogue = services.catalogue
        self._intake = services.intake
        self._operating = services.operating

    def register(self, app: Flask) -> None:
        """Add the routes."""
        one = f"{LANES}/<model>"
        app.add_url_rule(LANES, "lanes", self.list, methods=["GET"])
        app.add_url_rule(one, "lane", self.get, methods=["GET"])
        app.add_url_rule(one, "change_lane", self.change, methods=["PATCH"])
        app.add_url_rule(f"{one}/pause", "pause_lane", self.pause, methods=["POST"])
        app.add_url_rule(f"{one}/resume", "resume_lane", self.resume, methods=["POST"])
        app.add_url_rule(f"{one}/drain", "drain_lane", self.drain, methods=["POST"])
        app.add_url_rule(f"{one}/move", "move_lane", self.move, methods=["POST"])
        app.add_url_rule(f"{one}/purge", "purge_lane", self.purge, methods=["POST"])

    def list(self) -> Answer:
        """Every lane, the idle ones too; what a slot holds is told for prompts and answers of the lengths asked for."""
        given = parameters(request, "prompt_tokens", "answer_tokens")
        prompt_tokens = tokens(given, "prompt_tokens", PROMPT_TOKENS)
        answer_tokens = tokens(given, "answer_tokens", ANSWER_TOKENS)
        body: LaneList = {
            "object": "list",
            "data": [*self._bodies([*self._catalogue], prompt_tokens, answer_tokens)],
            "next_cursor": None,
        }
        return answer(body)

    def get(self, model: str) -> Answer:
        """One lane."""
        parameters(request)
        return self._told(self._known(model))

    def change(self, model: str) -> Answer:
        """Change what is given of a lane."""
        parameters(request)
        alias, asked = self._known(model), CHANGES.parse(_document())
        if "concurrency" in asked:
            self._operating.bound(alias, asked["concurrency"])
        return self._told(alias)

    def pause(self, model: str) -> Answer:
        """Take jobs and keep them."""
        return self._order(model, LaneMode.PAUSED)

    def resume(self, model: str) -> Answer:
        """Take jobs and run them."""
        return self._order(model, LaneMode.OPEN)

    def drain(self, model: str) -> Answer:
        """Take no jobs, and run those that are there."""
        return self._order(model, LaneMode.DRAINING)

    def move(self, model: str) -> Answer:
        """Have one worker serve it no more, and another serve it."""
        parameters(request)
        alias, asked = self._known(model), MOVE.parse(_document())
        self._operating.move(alias, source=asked.get("from_worker"), target=asked.get("to_worker"))
        return self._told(alias)

    def purge(self, model: str) -> Answer:
        """Cancel what is queued, or only count it."""
        parameters(request)
        alias, asked = self._known(model), PURGE.parse(_document())
        age_s = asked.get("older_than_seconds")
        before = None if age_s is None else self._operating.created_before(age_s)
        which = Queued(alias, asked.get("tenant"), before)
        dry_run = asked.get("dry_run", False)
        if dry_run:
            count = self._operating.count(which)
            purge = Purge(count, count)
        else:
            purge = self._operating.purge(which)
        body: PurgeBody = {
            "object": "purge",
            "model": alias,
            "dry_run": dry_run,
            "jobs": purge.cancelled,
            "remaining": purge.remaining,
        }
        return answer(body)

    def _order(self, model: str, mode: LaneMode) -> Answer:
        parameters(request)
        alias = self._known(model)
        self._operating.order(alias, mode)
        return self._told(alias)

    def _known(self, model: str) -> str:
        """The alias, if the catalogue has it. Raises UnknownModel."""
        return self._catalogue[model].alias

    def _told(self, model: str) -> Answer:
        return answer(next(self._bodies([model], PROMPT_TOKENS, ANSWER_TOKENS)))

    def _bodies(self, models: Sequence[str], prompt_tokens: int, answer_tokens: int) -> Iterator[LaneBody]:
        controls, workers = self._operating.controls(), self._operating.serving(models)
        instances = self._operating.instances()
        for status in self._intake.lanes(models):
            control = controls.get(status.model, UNCONTROLLED)
            body = _lane(status, control, workers[status.model], prompt_tokens, answer_tokens)
            body["instances"] = [
                {**instance_body(each), "jobs_at_once": each.room.at_once(prompt_tokens, answer_tokens)}
                for each in instances.get(status.model, ())
            ]
            yield body


def _document() -> object:
    require_type(request, JSON)
    return decode(read(request, MOST_BYTES))


def _lane(
    status: LaneStatus, control: LaneControl, workers: list[str], prompt_tokens: int, answer_tokens: int
) -> LaneBody:
    return {
        "model": status.model,
        "object": "lane",
        "mode": control.mode,
        "concurrency": control.concurrency,
        "workers": workers,
        "depth": status.depth,
        "running": status.running,
        "throughput": None if status.rate is None else round(status.rate, 3),
        "eta_error": None if status.accuracy is None else _eta_error(status.accuracy),
        "oldest_wait_seconds": status.oldest_wait_s,
        "capacity": None if status.room is None else _capacity(status.room, prompt_tokens, answer_tokens),
        "instances": [],
    }


def _eta_error(accuracy: Accuracy) -> LaneEtaError:
    return {"p50": round(accuracy.p50, 3), "p90": round(accuracy.p90, 3), "jobs": accuracy.jobs}


def _capacity(room: Room, prompt_tokens: int, answer_tokens: int) -> LaneCapacity:
    return {
        "jobs": room.jobs,
        "cache_tokens": room.tokens,
        "block_tokens": room.block_tokens,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "jobs_at_once": room.at_once(prompt_tokens, answer_tokens),
    }
