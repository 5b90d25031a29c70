"""/api/v1/workers: the slots that live, and what each holds; /api/v1/rosters: the models that each worker serves."""

from __future__ import annotations

from flask import Flask, request

from api.answers import Answer, answer
from api.lane_schemas import InstanceBody, RosterBody, RosterList, WorkerBody, WorkerCapacity, WorkerList, WorkerPulse
from api.query import parameters
from api.services import ApiServices
from ktqueue.instance import Instance
from ktqueue.operating import SlotStatus, WorkerStatus
from ktqueue.presence.base import Pulse
from ktqueue.room import Room
from ktqueue.times import rfc3339

WORKERS = "/api/v1/workers"
ROSTERS = "/api/v1/rosters"


class Workers:
    """The resources."""

    def __init__(self, services: ApiServices) -> None:
        self._operating = services.operating

    def register(self, app: Flask) -> None:
        """Add the routes."""
        app.add_url_rule(WORKERS, "list_workers", self.list, methods=["GET"])
        app.add_url_rule(ROSTERS, "list_rosters", self.rosters, methods=["GET"])

    def list(self) -> Answer:
        """Every slot that told of late."""
        parameters(request)
        data = [_worker(status) for status in self._operating.slots()]
        body: WorkerList = {"object": "list", "data": data, "next_cursor": None}
        return answer(body)

    def rosters(self) -> Answer:
        """Every worker that told of late."""
        parameters(request)
        data = [_roster(status) for status in self._operating.workers()]
        body: RosterList = {"object": "list", "data": data, "next_cursor": None}
        return answer(body)


def instance_body(instance: Instance) -> InstanceBody:
    """A server, as its slot told of it."""
    return {
        "url": instance.url,
        "kind": instance.kind,
        "state": instance.state,
        "rests_seconds": instance.rests_s,
        "running": instance.running,
        "outstanding_tokens": instance.work,
        "jobs": instance.room.jobs,
        "cache_tokens": instance.room.tokens,
    }


def _worker(status: SlotStatus) -> WorkerBody:
    slot = status.slot
    return {
        "name": slot.name,
        "object": "worker",
        "worker": slot.worker,
        "host": slot.host,
        "pid": slot.pid,
        "model": slot.model,
        "state": slot.state,
        "slot": slot.number,
        "device": slot.device,
        "capacity": None if slot.room is None else _capacity(slot.room),
        "running": slot.running,
        "instances": [instance_body(each) for each in slot.instances],
        "pulse": _pulse(slot.pulse),
        "ready_at": None if slot.since is None else rfc3339(slot.since),
        "heartbeat_at": rfc3339(status.told_at),
    }


def _capacity(room: Room) -> WorkerCapacity:
    return {"jobs": room.jobs, "cache_tokens": room.tokens, "block_tokens": room.block_tokens}


def _roster(status: WorkerStatus) -> RosterBody:
    worker = status.worker
    return {
        "worker": worker.name,
        "object": "roster",
        "host": worker.host,
        "models": list(worker.models),
        "offers": list(worker.offers),
        "heartbeat_at": rfc3339(status.told_at),
    }


def _pulse(pulse: Pulse) -> WorkerPulse:
    return {
        "prompt_tokens_per_second": round(pulse.prompt_tokens_s, 1),
        "generated_tokens_per_second": round(pulse.generated_tokens_s, 1),
        "busy": round(pulse.busy, 3),
        "batch": round(pulse.batch, 1),
        "cache_blocks": pulse.blocks,
        "cache_blocks_used": pulse.blocks_used,
        "memory_bytes": pulse.resident_bytes,
        "device_memory_bytes": pulse.device_bytes,
        "device_memory_used_bytes": pulse.device_used_bytes,
    }
