"""The slots that live, as the API tells of them."""

from __future__ import annotations

import pytest

from ktqueue.instance import Instance
from ktqueue.presence.base import Pulse, Slot, SlotState, Worker
from ktqueue.room import Room
from tests.api.wiring import Api, json_of, problem_of

WORKERS = "/api/v1/workers"
PULSE = Pulse(100.46, 2048.0, 0.75, 31.5, 256, 100, 9_000_000_000, 143_000_000_000, 70_000_000_000)
ROSTERS = "/api/v1/rosters"


def test_slots_tell_where_they_are_and_what_they_hold(api: Api) -> None:
    assert json_of(api.client.get(WORKERS), 200) == {"object": "list", "data": [], "next_cursor": None}
    room, now = Room(256, 4096, 16, "triton"), api.scene.clock.now()
    told = Instance("http://a/v1", "vllm", Room(8, 999, 1), running=2, work=30, state="resting", rests_s=1.5)
    device = "cuda:0 (H200)"
    slot = Slot(
        "gpu-1:77:88:boot-1",
        "chat",
        device,
        room,
        running=12,
        since=now,
        number=1,
        instances=(told,),
        pulse=PULSE,
        worker="gpu",
    )
    api.scene.presence.tell(slot, for_ms=8_000)
    api.scene.clock.sleep(1.5)

    assert json_of(api.client.get(WORKERS), 200)["data"] == [
        {
            "name": "gpu-1:77:88:boot-1",
            "object": "worker",
            "worker": "gpu",
            "host": "gpu-1",
            "pid": 77,
            "model": "chat",
            "state": "ready",
            "slot": 1,
            "device": "cuda:0 (H200)",
            "capacity": {"jobs": 256, "cache_tokens": 4096, "block_tokens": 16},
            "running": 12,
            "instances": [
                {
                    "url": "http://a/v1",
                    "kind": "vllm",
                    "state": "resting",
                    "rests_seconds": 1.5,
                    "running": 2,
                    "outstanding_tokens": 30,
                    "jobs": 8,
                    "cache_tokens": 999,
                }
            ],
            "pulse": {
                "prompt_tokens_per_second": 100.5,
                "generated_tokens_per_second": 2048.0,
                "busy": 0.75,
                "batch": 31.5,
                "cache_blocks": 256,
                "cache_blocks_used": 100,
                "memory_bytes": 9_000_000_000,
                "device_memory_bytes": 143_000_000_000,
                "device_memory_used_bytes": 70_000_000_000,
            },
            "ready_at": "2025-06-15T15:06:40.000Z",
            "heartbeat_at": "2025-06-15T15:06:40.000Z",
        }
    ]
    api.scene.clock.sleep(7)
    assert json_of(api.client.get(WORKERS), 200)["data"] == []


def test_of_one_that_loads_its_model_little_is_known(api: Api) -> None:
    slot = Slot("gpu-1:77:88:boot-1", "chat", "cuda:0", None, 0, None, state=SlotState.STARTING)
    api.scene.presence.tell(slot, for_ms=8_000)
    [told] = json_of(api.client.get(WORKERS), 200)["data"]
    assert [told[name] for name in ("state", "capacity", "ready_at", "running")] == ["starting", None, None, 0]


def test_rosters_tell_what_each_worker_serves_and_could(api: Api) -> None:
    assert json_of(api.client.get(ROSTERS), 200) == {"object": "list", "data": [], "next_cursor": None}
    api.scene.presence.tell_worker(Worker("gpu", "gpu-1", ("chat",), ("chat", "echo")), for_ms=8_000)
    assert json_of(api.client.get(ROSTERS), 200)["data"] == [
        {
            "worker": "gpu",
            "object": "roster",
            "host": "gpu-1",
            "models": ["chat"],
            "offers": ["chat", "echo"],
            "heartbeat_at": "2025-06-15T15:06:40.000Z",
        }
    ]


@pytest.mark.parametrize("path", [WORKERS, ROSTERS])
def test_without_redis_nobody_can_tell(api: Api, path: str) -> None:
    api.scene.redis.go()
    assert problem_of(api.client.get(path), 503)["code"] == "unavailable"
