"""One suite for every implementation of Events, and what only the one on Redis can go through."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry

from ktqueue.errors import LanesUnavailable
from ktqueue.events import memory as in_memory
from ktqueue.events import redis as in_redis
from ktqueue.events.base import END, REQUEUED, START, Event, EventId, Events
from ktqueue.events.memory import MemoryEvents
from ktqueue.events.redis import RedisEvents
from ktqueue.redis_client import Client, connect

JOB = "job_" + "0" * 32


@dataclass
class Rig:
    """Events, and a way to return once a reader waits (in memory a publisher can't be too early)."""

    events: Events
    until_a_reader_waits: Callable[[], None]


def state(claim: int, offset: int, name: str, job_id: str = JOB) -> Event:
    return Event(job_id, EventId(claim, offset), "state", {"state": name})


def token(claim: int, offset: int, text: str = "x") -> Event:
    return Event(JOB, EventId(claim, offset), "token", {"text": text, "offset": offset - len(text)})


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with connect(redis_url) as opened:
        yield opened


def redis_rig(client: Client) -> Rig:
    def until_a_reader_waits() -> None:
        while not client.info("clients")["blocked_clients"]:
            time.sleep(0.005)

    return Rig(RedisEvents(client), until_a_reader_waits)


@pytest.fixture(params=["memory", "redis"])
def rig(request: pytest.FixtureRequest) -> Rig:
    if request.param == "memory":
        return Rig(MemoryEvents(), lambda: None)
    return redis_rig(request.getfixturevalue("client"))


def test_nothing_published_is_nothing_read(rig: Rig) -> None:
    assert rig.events.read(JOB, START, wait_s=0) == []
    assert rig.events.latest(JOB) is None
    rig.events.publish([])


def test_events_are_read_as_they_were_published(rig: Rig) -> None:
    history = [
        state(1, 0, "running"),
        token(1, 2, "hé"),
        token(1, 4, "\x00\u2028"),
        Event(JOB, EventId(1, 5), "progress", {"progress": 0.5}),
        state(1, REQUEUED, "queued"),
        state(2, 0, "running"),
        state(2, END, "succeeded"),
    ]
    rig.events.publish(history[:3])
    rig.events.publish(history[3:])
    assert rig.events.read(JOB, START, wait_s=0) == history
    assert rig.events.latest(JOB) == history[-1]


@pytest.mark.parametrize("after", [EventId(1, 0), EventId(1, 2), EventId(1, 3), EventId(1, END), EventId(2, 9)])
def test_a_reader_resumes_after_any_id(rig: Rig, after: EventId) -> None:
    history = [state(1, 0, "running"), token(1, 2), token(1, 4), state(1, REQUEUED, "queued"), state(2, 0, "running")]
    rig.events.publish(history)
    assert rig.events.read(JOB, after, wait_s=0) == [event for event in history if event.id > after]


def test_what_an_older_claim_says_is_dropped(rig: Rig) -> None:
    rig.events.publish([token(1, 5), state(2, 0, "running")])
    rig.events.publish([token(1, 6), state(1, END, "succeeded"), token(2, 1)])
    rig.events.publish([token(2, 1, "again"), state(2, 0, "running")])
    assert [event.id for event in rig.events.read(JOB, START, wait_s=0)] == [(1, 5), (2, 0), (2, 1)]


def test_one_dropped_event_takes_no_other_with_it(rig: Rig) -> None:
    rig.events.publish([state(2, 0, "running", "job_a")])
    group = [state(1, END, "failed", "job_a"), state(1, END, "succeeded", "job_b"), state(2, 1, "x", "job_a")]
    rig.events.publish(group)
    assert rig.events.latest("job_b") == group[1]
    assert rig.events.read("job_a", EventId(2, 0), wait_s=0) == group[2:]


def test_jobs_do_not_mix(rig: Rig) -> None:
    group = [state(1, END, "succeeded", f"job_{number}") for number in range(300)]
    rig.events.publish(group)
    assert [rig.events.read(event.job_id, START, wait_s=0) for event in group] == [[event] for event in group]


def test_a_waiting_reader_is_woken(rig: Rig) -> None:
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(rig.events.read, JOB, EventId(1, 0), wait_s=60)
        rig.until_a_reader_waits()
        rig.events.publish([state(1, 0, "running"), state(1, END, "succeeded", "job_other")])
        rig.events.publish([token(1, 3)])
        assert reading.result() == [token(1, 3)]


def test_many_readers_wait_at_once(rig: Rig) -> None:
    ready = threading.Barrier(33)

    def read(_: int) -> list[Event]:
        ready.wait()
        return rig.events.read(JOB, START, wait_s=60)

    with ThreadPoolExecutor(32) as threads:
        readings = [threads.submit(read, number) for number in range(32)]
        ready.wait()
        rig.events.publish([token(1, 1)])
        assert all(reading.result() == [token(1, 1)] for reading in readings)


def test_a_wait_in_vain_ends(rig: Rig) -> None:
    longer_than_one_blocking_read = in_redis.LONGEST_BLOCK_MS / 1000 + 0.1
    assert rig.events.read(JOB, START, wait_s=longer_than_one_blocking_read) == []


def test_a_long_stream_keeps_its_newest(rig: Rig) -> None:
    tokens = [token(1, offset) for offset in range(1, 5001)]
    rig.events.publish(tokens)
    kept = rig.events.read(JOB, START, wait_s=0)
    assert in_redis.KEPT <= len(kept) < 5000
    assert kept == tokens[-len(kept) :]


def test_memory_keeps_the_newest_jobs() -> None:
    events = MemoryEvents()
    events.publish([state(1, 0, "running", f"job_{number}") for number in range(in_memory.JOBS_KEPT + 1)])
    assert events.latest("job_0") is None
    assert events.latest(f"job_{in_memory.JOBS_KEPT}") is not None


# --- Redis alone -----------------------------------------------------------------------------------------------


def test_every_stream_expires_and_an_ended_one_soon(client: Client) -> None:
    events = RedisEvents(client)
    key = f"ktq:events:{JOB}"
    events.publish([state(1, 0, "running")])
    assert in_redis.ENDED_MS < client.pttl(key) <= in_redis.KEPT_MS
    client.pexpire(key, 1_000)
    events.publish([token(1, 1)])
    assert in_redis.ENDED_MS < client.pttl(key) <= in_redis.KEPT_MS
    events.publish([state(1, END, "succeeded")])
    assert 0 < client.pttl(key) <= in_redis.ENDED_MS
    assert set(client.scan_iter("*")) == {key}


def test_a_server_that_lost_everything_goes_on(client: Client) -> None:
    events = RedisEvents(client)
    events.publish([token(1, 1)])
    client.flushall()
    client.script_flush()
    client.client_kill_filter(_type="normal", skipme=False)
    events.publish([token(1, 2)])
    assert events.read(JOB, START, wait_s=0) == [token(1, 2)]


def test_an_error_that_is_no_fence_is_not_dropped(client: Client) -> None:
    client.set(f"ktq:events:{JOB}", "no stream")
    with pytest.raises(LanesUnavailable):
        RedisEvents(client).publish([token(1, 1)])


CALLS: dict[str, Callable[[Events], object]] = {
    "publish": lambda events: events.publish([token(1, 1)]),
    "read": lambda events: events.read(JOB, START, wait_s=0),
    "wait": lambda events: events.read(JOB, START, wait_s=60),
    "latest": lambda events: events.latest(JOB),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_server_is_unavailable(call: Callable[[Events], object], tmp_path: Path) -> None:
    at_once = Retry(NoBackoff(), 0)
    with Client(unix_socket_path=str(tmp_path / "nobody"), retry=at_once) as client:
        events = RedisEvents(client)
        with pytest.raises(LanesUnavailable):
            call(events)
