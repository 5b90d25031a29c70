"""What every implementation of Presence must do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import orjson
import pytest

from ktqueue.errors import LanesUnavailable
from ktqueue.presence.base import Presence, Pulse, Seen, SeenWorker, Slot, SlotState, Worker
from ktqueue.presence.memory import MemoryPresence
from ktqueue.presence.redis import NAMES, RedisPresence
from ktqueue.redis_client import connect
from ktqueue.room import Room
from tests.support.scene import Clock
from worker.herald import Herald

LONG_MS = 60_000
SLOT = Slot("host:12:345:boot", "echo", "cpu", Room(8), running=3, since=1_750_000_000_000)
PULSE = Pulse(100.5, 2048.0, 0.75, 31.5, 256, 100, 9_000_000_000, 143_000_000_000, 70_000_000_000)
ON_GPU = Slot(
    "gpu:1:2:3", "chat", "cuda:0 (H200)", Room(256, 4096, 16, "triton"), running=0, since=1, number=1, pulse=PULSE
)
STARTING = Slot("gpu:3:4:5", "chat", "cuda:1", None, 0, None, 1, worker="gpu-1", state=SlotState.STARTING)
WORKER = Worker("gpu-1", "gpu", ("chat",), ("chat", "echo"))


@dataclass
class Rig:
    """Presence, and a way to let so many milliseconds pass for it."""

    presence: Presence
    let_pass: Callable[[int], None]


@pytest.fixture(params=["memory", "redis"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    if request.param == "memory":
        clock = Clock()
        yield Rig(MemoryPresence(clock.now), lambda ms: clock.sleep(ms / 1000))
        return
    with connect(request.getfixturevalue("redis_url")) as client:
        yield Rig(RedisPresence(client), lambda ms: time.sleep(ms / 1000))


def slots(seen: list[Seen]) -> list[Slot]:
    return [each.slot for each in seen]


def test_nobody_is_there_at_first(rig: Rig) -> None:
    assert rig.presence.slots() == []


def test_what_was_told_last_is_told(rig: Rig) -> None:
    rig.presence.tell(SLOT, for_ms=LONG_MS)
    rig.presence.tell(ON_GPU, for_ms=LONG_MS)
    rig.presence.tell(replace(SLOT, running=5), for_ms=LONG_MS)
    rig.let_pass(5)
    seen = rig.presence.slots()
    assert slots(seen) == [ON_GPU, replace(SLOT, running=5)]
    assert all(5 <= each.age_ms < LONG_MS for each in seen)


def test_one_that_loads_its_model_is_told_as_such(rig: Rig) -> None:
    rig.presence.tell(STARTING, for_ms=LONG_MS)
    assert slots(rig.presence.slots()) == [STARTING]


def test_workers_are_told_of_beside_their_slots(rig: Rig) -> None:
    assert rig.presence.workers() == []
    rig.presence.tell(SLOT, for_ms=LONG_MS)
    rig.presence.tell_worker(Worker("idle", "host", (), ("echo",)), for_ms=LONG_MS)
    rig.presence.tell_worker(replace(WORKER, models=()), for_ms=LONG_MS)
    rig.presence.tell_worker(WORKER, for_ms=LONG_MS)
    rig.let_pass(5)
    seen = rig.presence.workers()
    assert [each.worker for each in seen] == [WORKER, Worker("idle", "host", (), ("echo",))]
    assert all(5 <= each.age_ms < LONG_MS for each in seen)
    assert slots(rig.presence.slots()) == [SLOT]


def test_a_worker_that_falls_silent_is_forgotten(rig: Rig) -> None:
    rig.presence.tell_worker(WORKER, for_ms=10)
    rig.let_pass(30)
    assert rig.presence.workers() == []
    rig.presence.tell_worker(WORKER, for_ms=LONG_MS)
    assert [SeenWorker(each.worker, 0) for each in rig.presence.workers()] == [SeenWorker(WORKER, 0)]


def test_who_falls_silent_is_forgotten(rig: Rig) -> None:
    rig.presence.tell(SLOT, for_ms=10)
    rig.presence.tell(ON_GPU, for_ms=LONG_MS)
    rig.let_pass(30)
    assert slots(rig.presence.slots()) == [ON_GPU]
    rig.presence.tell(SLOT, for_ms=LONG_MS)
    assert slots(rig.presence.slots()) == [ON_GPU, SLOT]


def test_the_names_of_those_who_are_gone_do_not_pile_up(redis_url: str) -> None:
    with connect(redis_url) as client:
        presence = RedisPresence(client)
        for number in range(20):
            presence.tell(replace(SLOT, name=f"host:{number}:0:x"), for_ms=1)
        time.sleep(0.02)
        assert presence.slots() == []
        assert client.scard(NAMES) == 0
        presence.tell(SLOT, for_ms=LONG_MS)
        assert client.pttl(NAMES) > LONG_MS


def test_without_redis_nobody_knows(rig: Rig) -> None:
    nowhere = RedisPresence(connect("redis://127.0.0.1:1"))
    with pytest.raises(LanesUnavailable):
        nowhere.slots()
    with pytest.raises(LanesUnavailable):
        nowhere.workers()
    Herald(nowhere, lambda: SLOT, every_s=1).tell()


def test_a_slots_name_tells_its_machine_and_process() -> None:
    assert (SLOT.host, SLOT.pid) == ("host", 12)
    odd = replace(SLOT, name="nobody")
    assert (odd.host, odd.pid) == ("nobody", None)


def test_a_word_of_a_newer_version_is_understood() -> None:
    told = SLOT.to_json().replace(b'{"name"', b'{"new": 1, "name"')
    assert Slot.from_json(told) == SLOT
    told = WORKER.to_json().replace(b'{"name"', b'{"new": 1, "name"')
    assert Worker.from_json(told) == WORKER


def test_a_word_of_an_older_version_is_understood() -> None:
    known = orjson.loads(SLOT.to_json())
    told = orjson.dumps({name: known[name] for name in ("name", "model", "device", "room", "running", "since")})
    assert Slot.from_json(told) == SLOT


def test_the_herald_tells_again_and_again_and_is_believed_for_longer() -> None:
    clock = Clock()
    presence = MemoryPresence(clock.now)
    told: list[int] = []

    class End(Exception):
        pass

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        told.append(len(presence.slots()))
        if len(told) == 3:
            raise End

    with pytest.raises(End):
        Herald(presence, lambda: SLOT, every_s=2, sleep=sleep).run()
    assert told == [1, 1, 1]
    clock.sleep(5.9)
    assert slots(presence.slots()) == [SLOT]
    clock.sleep(0.1)
    assert presence.slots() == []


def test_a_herald_that_is_stopped_tells_no_more() -> None:
    clock = Clock()
    presence = MemoryPresence(clock.now)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        herald.stop()

    herald = Herald(presence, lambda: SLOT, every_s=2, sleep=sleep)
    herald.run()
    assert [each.age_ms for each in presence.slots()] == [2_000]


def test_a_word_on_its_way_does_not_overtake_a_newer_one() -> None:
    """The herald's thread has seen that the slot starts; before it says so, the slot is ready and says that itself."""
    presence = MemoryPresence(Clock().now)
    looked, told = threading.Event(), threading.Event()
    state = SlotState.STARTING

    def describe() -> Slot:
        seen = replace(SLOT, state=state)
        if threading.current_thread() is thread:
            looked.set()
            # Not told meanwhile: this wait ends in vain, unless the newer word goes first.
            told.wait(0.05)
        return seen

    def stop(_: float) -> None:
        told.wait()
        herald.stop()

    herald = Herald(presence, describe, every_s=2, sleep=stop)
    thread = threading.Thread(target=herald.run)
    thread.start()
    looked.wait()
    state = SlotState.READY
    herald.tell()
    told.set()
    thread.join()
    assert [each.state for each in slots(presence.slots())] == [SlotState.READY]
