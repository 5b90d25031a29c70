"""/api/v1/workers: the slots that live, and what each holds."""

from __future__ import annotations

from flask import Flask, request

from api.answers import Answer, answer
from api.query import parameters
from api.schemas import InstanceBody, WorkerBody, WorkerList, WorkerPulse
from api.services import ApiServices
from ktqueue.instance import Instance
from ktqueue.operating import SlotStatus
from ktqueue.presence.base import Pulse
from ktqueue.times import rfc3339

WORKERS = "/api/v1/workers"


class Workers:
    """The resource."""

    def __init__(self, services: ApiServices) -> None:
        self._operating = services.operating

    def register(self, app: Flask) -> None:
        """Add the route."""
        app.add_url_rule(WORKERS, "list_workers", self.list, methods=["GET"])

    def list(self) -> Answer:
        """Every slot that told of late."""
        parameters(request)
        data = [_worker(status) for status in self._operating.slots()]
        body: WorkerList = {"object": "list", "data": data, "next_cursor": None}
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
        "host": slot.host,
        "pid": slot.pid,
        "model": slot.model,
        "slot": slot.number,
        "device": slot.device,
        "capacity": {
            "jobs": slot.room.jobs,
            "cache_tokens": slot.room.tokens,
            "block_tokens": slot.room.block_tokens,
        },
        "running": slot.running,
        "instances": [instance_body(each) for each in slot.instances],
        "pulse": _pulse(slot.pulse),
        "ready_at": rfc3339(slot.since),
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
