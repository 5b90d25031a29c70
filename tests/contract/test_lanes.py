"""One suite for every implementation of Lanes, and what only the one on Redis can go through."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from redis.backoff import NoBackoff
from redis.retry import Retry

from ktqueue.errors import ConfigurationError, LanesUnavailable
from ktqueue.lanes import memory as in_memory
from ktqueue.lanes import redis as in_redis
from ktqueue.lanes.base import BACKLOG_MS, ROOM_MS, Backlog, Ended, Lanes, LaneView
from ktqueue.lanes.memory import MemoryLanes
from ktqueue.lanes.pace import FORGOTTEN, SPAN_S
from ktqueue.lanes.redis import RedisLanes
from ktqueue.priority_class import Entry
from ktqueue.redis_client import Client, connect
from ktqueue.room import Room
from tests.support.scene import ended


@dataclass
class Rig:
    """Lanes, the models whose bell was sent, and ways to let the bell and room of ``m``, and the backlog, lapse."""

    lanes: Lanes
    rung: list[str]
    let_bell_lapse: Callable[[], None]
    let_backlog_lapse: Callable[[], None]
    let_room_lapse: Callable[[], None]


def entry(number: int, rank: float | None = None, model: str = "m") -> Entry:
    return Entry(model, job(number), float(number) if rank is None else rank, "default", 5, 1, 0)


def position(lanes: Lanes, number: int, model: str = "m") -> int | None:
    ahead = lanes.ahead(model, job(number))
    return None if ahead is None else ahead.jobs


def job(number: int) -> str:
    return f"job_{number:032x}"


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.005)


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with connect(redis_url) as opened:
        yield opened


def memory_rig() -> Rig:
    rung: list[str] = []
    clock = [1_790_000_000_000]

    def let_bell_lapse() -> None:
        clock[0] += in_memory.BELL_MS

    def let_backlog_lapse() -> None:
        clock[0] += BACKLOG_MS

    def let_room_lapse() -> None:
        clock[0] += ROOM_MS

    return Rig(MemoryLanes(rung.append, lambda: clock[0]), rung, let_bell_lapse, let_backlog_lapse, let_room_lapse)


def redis_rig(client: Client) -> Rig:
    rung: list[str] = []

    def let_lapse(key: str, most_ms: int) -> None:
        assert 0 < client.pttl(key) <= most_ms
        client.pexpire(key, 1)
        wait_until(lambda: not client.exists(key))

    return Rig(
        RedisLanes(client, rung.append),
        rung,
        lambda: let_lapse("ktq:bell:m", in_redis.BELL_MS),
        lambda: let_lapse("ktq:backlog", BACKLOG_MS),
        lambda: let_lapse("ktq:room:m", ROOM_MS),
    )


@pytest.fixture(params=["memory", "redis"])
def rig(request: pytest.FixtureRequest) -> Rig:
    return memory_rig() if request.param == "memory" else redis_rig(request.getfixturevalue("client"))


# --- order -----------------------------------------------------------------------------------------------------


def test_ping(rig: Rig) -> None:
    rig.lanes.ping()


def test_an_empty_lane_gives_nothing(rig: Rig) -> None:
    assert rig.lanes.pull("m", 10) == []
    assert position(rig.lanes, 1) is None
    assert rig.lanes.view("m").depth == 0
    rig.lanes.remove("m", job(1))


def test_ids_come_out_by_rank_then_id(rig: Rig) -> None:
    rig.lanes.add([entry(3, 7.0), entry(1, 9.0), entry(2, 7.0), entry(9, -1.0)])
    assert rig.lanes.pull("m", 3) == [job(9), job(2), job(3)]
    assert rig.lanes.pull("m", 3) == [job(1)]
    assert rig.lanes.pull("m", 3) == []


def test_neighbouring_milliseconds_stay_apart(rig: Rig) -> None:
    rig.lanes.add([entry(1, 1_790_000_000_001.0), entry(2, 1_790_000_000_000.0)])
    assert rig.lanes.pull("m", 2) == [job(2), job(1)]


def test_adding_again_is_adding_once(rig: Rig) -> None:
    rig.lanes.add([entry(1), entry(2), entry(1)])
    rig.lanes.add([entry(2), entry(1)])
    assert rig.lanes.view("m").depth == 2
    assert rig.lanes.pull("m", 10) == [job(1), job(2)]


def test_a_new_rank_moves_a_job(rig: Rig) -> None:
    rig.lanes.add([entry(1), entry(2)])
    rig.lanes.add([entry(1, 5.0)])
    assert rig.lanes.pull("m", 10) == [job(2), job(1)]


def test_adding_nothing_is_nothing(rig: Rig) -> None:
    rig.lanes.add([])
    assert rig.rung == []


@pytest.mark.parametrize("limit", [0, -1])
def test_pulling_nothing_takes_nothing(rig: Rig, limit: int) -> None:
    rig.lanes.add([entry(1)])
    assert rig.lanes.pull("m", limit) == []
    assert rig.lanes.view("m").depth == 1


def test_lanes_do_not_mix(rig: Rig) -> None:
    rig.lanes.add([entry(1, model="a"), entry(2, model="b")])
    assert rig.lanes.pull("a", 10) == [job(1)]
    assert position(rig.lanes, 2, "b") == 0
    assert rig.lanes.missing("a", [job(2)]) == [job(2)]


def test_no_two_callers_get_the_same_id(rig: Rig) -> None:
    rig.lanes.add([entry(number) for number in range(1000)])

    def pull_all(_: int) -> list[str]:
        taken: list[str] = []
        while some := rig.lanes.pull("m", 7):
            taken += some
        return taken

    with ThreadPoolExecutor(8) as threads:
        taken = [job_id for ids in threads.map(pull_all, range(8)) for job_id in ids]
    assert sorted(taken) == [job(number) for number in range(1000)]


def test_position_missing_and_remove(rig: Rig) -> None:
    rig.lanes.add([entry(1), entry(2), entry(3)])
    assert [position(rig.lanes, number) for number in (1, 2, 3, 4)] == [0, 1, 2, None]
    rig.lanes.remove("m", job(1))
    assert position(rig.lanes, 3) == 1
    assert rig.lanes.missing("m", [job(4), job(2), job(1), job(3)]) == [job(4), job(1)]
    assert rig.lanes.missing("m", []) == []


# --- what the store says ---------------------------------------------------------------------------------------


def test_several_lanes_are_seen_at_once(rig: Rig) -> None:
    rig.lanes.add([entry(1), entry(2), entry(3, model="other")])
    rig.lanes.count_finished("m", ended(10))

    assert rig.lanes.views(["other", "m", "empty"]) == {
        "m": replace(rig.lanes.view("m"), depth=2, cost=2),
        "other": LaneView(1, None, cost=1),
        "empty": LaneView(0, None),
    }
    assert rig.lanes.views([]) == {}


def test_a_backlog_is_kept_until_the_next_or_for_a_while(rig: Rig) -> None:
    assert rig.lanes.backlog() is None
    for told in (Backlog(1, {"m": 2, "a.b:c": 0}, 3), Backlog(4, {}, 2**40)):
        rig.lanes.tell_backlog(told)
        assert rig.lanes.backlog() == told

    rig.let_backlog_lapse()
    assert rig.lanes.backlog() is None


# --- what slots say --------------------------------------------------------------------------------------------


def test_what_a_slot_holds_is_kept_until_the_next_or_for_a_day(rig: Rig) -> None:
    assert rig.lanes.rooms(["m", "other"]) == {}
    rig.lanes.tell_room("other", Room(8))
    for told in (Room(4), Room(256, 180_000, 16, "triton")):
        rig.lanes.tell_room("m", told)
        assert rig.lanes.rooms(["m", "nobody", "other"]) == {"m": told, "other": Room(8)}
    assert rig.lanes.rooms(["other"]) == {"other": Room(8)}
    assert rig.lanes.rooms([]) == {}

    rig.let_room_lapse()
    assert rig.lanes.rooms(["m"]) == {}


# --- the bell --------------------------------------------------------------------------------------------------


def test_the_bell_rings_once_until_it_is_answered(rig: Rig) -> None:
    rig.lanes.add([entry(1)])
    rig.lanes.add([entry(2)])
    rig.lanes.ring("m")
    assert rig.rung == ["m"]
    rig.lanes.answer("m")
    rig.lanes.ring("m")
    rig.lanes.add([entry(3)])
    assert rig.rung == ["m", "m"]


def test_a_bell_nobody_answers_is_rung_again_in_time(rig: Rig) -> None:
    rig.lanes.add([entry(1)])
    rig.let_bell_lapse()
    rig.lanes.add([entry(1)])
    assert rig.rung == ["m", "m"]


def test_each_lane_that_is_touched_has_its_bell_rung(rig: Rig) -> None:
    rig.lanes.ring("b")
    rig.lanes.add([entry(1, model="a"), entry(2, model="b"), entry(3, model="a"), entry(4, model="c")])
    assert rig.rung == ["b", "a", "c"]


def test_answering_what_was_not_rung_is_nothing(rig: Rig) -> None:
    rig.lanes.answer("m")
    rig.lanes.ring("m")
    assert rig.rung == ["m"]


def test_many_callers_ring_once(rig: Rig) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: rig.lanes.add([entry(number)]), range(100)))
    assert rig.rung == ["m"]
    assert rig.lanes.view("m").depth == 100


# --- rate ------------------------------------------------------------------------------------------------------


def test_the_rate_is_unknown_until_something_finished(rig: Rig) -> None:
    rig.lanes.count_finished("m", ended(0))
    assert rig.lanes.view("m").rate is None
    rig.lanes.count_finished("m", ended(20))
    rig.lanes.count_finished("m", ended(30))
    rate = rig.lanes.view("m").rate
    assert rate is not None
    assert 0 < rate <= 50 / SPAN_S
    assert rig.lanes.view("other").rate is None


def run(estimate: int, run_ms: int, **given: Any) -> list[Ended]:
    return ended(1, estimate=estimate, cost=estimate, run_ms=run_ms, **given)


def test_how_long_a_run_takes_at_least_is_half_of_the_quickest_of_late(rig: Rig) -> None:
    assert rig.lanes.view("m").least_ms_each == 0
    rig.lanes.add([entry(1)])
    assert rig.lanes.count_finished("m", run(100, 1_000)) == pytest.approx(5)
    assert rig.lanes.count_finished("m", run(100, 800) + run(10, 800)) == pytest.approx(4)
    assert rig.lanes.view("m").least_ms_each == pytest.approx(4)
    assert rig.lanes.count_finished("m", run(100, 10_000) * 100) == pytest.approx(4 * FORGOTTEN**100)
    assert rig.lanes.view("m").least_ms_each == pytest.approx(4 * FORGOTTEN**100)
    assert rig.lanes.view("other").least_ms_each == 0


def test_what_did_not_run_to_its_end_says_nothing_about_that(rig: Rig) -> None:
    rig.lanes.add([entry(1)])
    assert rig.lanes.count_finished("m", run(100, 1, whole=False)) == 0
    assert rig.lanes.count_finished("m", run(100, 1_000) + run(100, 1, whole=False)) == pytest.approx(5)
    assert rig.lanes.count_finished("m", run(100, 1, whole=False)) == pytest.approx(5 * FORGOTTEN)


def test_while_nobody_waits_it_is_not_known_how_long_a_run_takes(rig: Rig) -> None:
    assert rig.lanes.count_finished("m", run(100, 1_000)) == 0
    assert rig.lanes.view("m").least_ms_each == 0
    rig.lanes.add([entry(1)])
    assert rig.lanes.view("m").least_ms_each == 0
    assert rig.lanes.count_finished("m", run(100, 2_000)) == pytest.approx(5 * FORGOTTEN)


# --- cancels ---------------------------------------------------------------------------------------------------


def test_every_reader_of_cancels_has_its_own_mark(rig: Rig) -> None:
    assert rig.lanes.cancels("m", "") == ([], "")
    rig.lanes.ask_cancel("m", [job(1), job(2)])
    first, mark = rig.lanes.cancels("m", "")
    assert first == [job(1), job(2)]
    assert rig.lanes.cancels("m", mark) == ([], mark)
    rig.lanes.ask_cancel("m", [job(3)])
    assert rig.lanes.cancels("m", mark)[0] == [job(3)]
    assert rig.lanes.cancels("m", "")[0] == [job(1), job(2), job(3)]
    assert rig.lanes.cancels("other", "") == ([], "")


def test_asking_to_cancel_nothing_is_nothing(rig: Rig) -> None:
    rig.lanes.ask_cancel("m", [])
    assert rig.lanes.cancels("m", "") == ([], "")


def test_cancels_are_capped_and_the_newest_are_kept(rig: Rig) -> None:
    count = in_redis.CANCELS_KEPT + 500
    rig.lanes.ask_cancel("m", [job(number) for number in range(count)])
    kept, _ = rig.lanes.cancels("m", "")
    assert len(kept) < count
    assert kept[-1] == job(count - 1)


# --- Redis alone -----------------------------------------------------------------------------------------------


def test_the_bell_has_its_own_time_to_live(client: Client) -> None:
    rung: list[str] = []
    lanes = RedisLanes(client, rung.append, bell_ms=20)
    lanes.ring("m")
    wait_until(lambda: not client.exists("ktq:bell:m"))
    lanes.ring("m")
    assert rung == ["m", "m"]


def test_all_but_the_lanes_expires(client: Client) -> None:
    lanes = RedisLanes(client, lambda _: None)
    lanes.add([entry(1)])
    lanes.count_finished("m", ended(5))
    lanes.ask_cancel("m", [job(1)])
    lanes.tell_room("m", Room(1))
    keys = set(client.scan_iter("*"))
    stays = {"ktq:waits:m", "ktq:queue:m:5:default", "ktq:turns:m:5", "ktq:due:m:5", "ktq:fair:m"}
    assert keys - stays == {"ktq:bell:m", "ktq:finished:m", "ktq:service:m", "ktq:cancel:m", "ktq:room:m"}
    assert {key for key in keys if client.pttl(key) <= 0} == stays
    lanes.pull("m", 1)
    assert stays & set(client.scan_iter("*")) == {"ktq:fair:m"}


def test_counts_of_long_ago_are_dropped(client: Client) -> None:
    client.hset("ktq:finished:m", mapping={"1": 7, "2": 9})
    lanes = RedisLanes(client, lambda _: None)
    lanes.count_finished("m", ended(5))
    assert list(client.hgetall("ktq:finished:m").values()) == ["5"]


def test_a_server_that_lost_everything_is_filled_again(client: Client) -> None:
    rung: list[str] = []
    lanes = RedisLanes(client, rung.append)
    lanes.add([entry(1), entry(2)])
    lanes.count_finished("m", ended(1))
    lanes.ask_cancel("m", [job(8)])
    _, mark = lanes.cancels("m", "")
    lose_everything(client)

    assert lanes.missing("m", [job(1), job(2)]) == [job(1), job(2)]
    lanes.add([entry(1), entry(2)])
    lanes.count_finished("m", ended(1))
    lanes.ask_cancel("m", [job(9)])
    assert rung == ["m", "m"]
    assert lanes.view("m").rate == 1 / SPAN_S
    assert lanes.cancels("m", mark)[0] == [job(9)]
    assert lanes.pull("m", 5) == [job(1), job(2)]


def lose_everything(client: Client) -> None:
    """What a restart without a disk looks like: no data, no scripts, and every connection broken."""
    client.flushall()
    client.script_flush()
    client.client_kill_filter(_type="normal", skipme=False)


def test_a_full_server_is_unavailable(client: Client) -> None:
    client.config_set("maxmemory", "1")
    try:
        with pytest.raises(LanesUnavailable):
            RedisLanes(client, lambda _: None).add([entry(1)])
        # It is there, so the next call is not spared: it may ask for something that a full server does.
        assert RedisLanes(client, lambda _: None).view("m").depth == 0
    finally:
        client.config_set("maxmemory", "0")


CALLS: dict[str, Callable[[Lanes], object]] = {
    "ping": lambda lanes: lanes.ping(),
    "add": lambda lanes: lanes.add([entry(1)]),
    "pull": lambda lanes: lanes.pull("m", 1),
    "remove": lambda lanes: lanes.remove("m", job(1)),
    "missing": lambda lanes: lanes.missing("m", [job(1)]),
    "ahead": lambda lanes: lanes.ahead("m", job(1)),
    "ahead_of": lambda lanes: lanes.ahead_of(entry(1)),
    "tell_weights": lambda lanes: lanes.tell_weights({"a": 2.0}),
    "view": lambda lanes: lanes.view("m"),
    "views": lambda lanes: lanes.views(["m"]),
    "tell_backlog": lambda lanes: lanes.tell_backlog(Backlog(0, {}, 0)),
    "backlog": lambda lanes: lanes.backlog(),
    "tell_room": lambda lanes: lanes.tell_room("m", Room(1)),
    "rooms": lambda lanes: lanes.rooms(["m"]),
    "ring": lambda lanes: lanes.ring("m"),
    "answer": lambda lanes: lanes.answer("m"),
    "count_finished": lambda lanes: lanes.count_finished("m", ended(1)),
    "ask_cancel": lambda lanes: lanes.ask_cancel("m", [job(1)]),
    "cancels": lambda lanes: lanes.cancels("m", ""),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_server_is_unavailable(call: Callable[[Lanes], object], tmp_path: Path) -> None:
    at_once = Retry(NoBackoff(), 0)
    with Client(unix_socket_path=str(tmp_path / "nobody"), retry=at_once) as client:
        lanes = RedisLanes(client, lambda _: None)
        with pytest.raises(LanesUnavailable):
            call(lanes)


def test_a_server_that_is_gone_is_given_up_on(tmp_path: Path) -> None:
    with connect(f"unix://{tmp_path}/nobody") as client, pytest.raises(LanesUnavailable):
        RedisLanes(client, lambda _: None).ping()


def test_while_a_server_is_away_only_the_first_waits(redis_url: str, tmp_path: Path) -> None:
    hidden = tmp_path / "redis.sock"
    with connect(f"unix://{hidden}") as client:
        lanes = RedisLanes(client, lambda _: None)
        with pytest.raises(LanesUnavailable, match="is not available"):
            lanes.ping()
        for _ in range(100):
            with pytest.raises(LanesUnavailable, match="is away"):
                lanes.ping()
        hidden.symlink_to(redis_url.removeprefix("unix://"))
        wait_until(lambda: not client._breaker.open)
        lanes.ping()


def test_a_server_that_hangs_is_given_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = connect(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(LanesUnavailable):
            RedisLanes(client, lambda _: None).ping()
        client.close()


def test_a_server_that_comes_back_is_waited_for(redis_url: str, tmp_path: Path) -> None:
    hidden = tmp_path / "redis.sock"
    comes_back = threading.Timer(0.1, hidden.symlink_to, [redis_url.removeprefix("unix://")])
    comes_back.start()
    try:
        with connect(f"unix://{hidden}") as client:
            RedisLanes(client, lambda _: None).ping()
    finally:
        comes_back.join()


@pytest.mark.parametrize(
    "url", ["", "http://localhost", "redis://localhost?health_check_interval=often", "redis://localhost:6379x/0"]
)
def test_a_wrong_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigurationError, match="KTQ_REDIS_URL"):
        connect(url)
