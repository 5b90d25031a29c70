"""What every implementation of Controls must do, and how processes watch them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ktqueue.control import UNCONTROLLED, LaneControl, LaneMode
from ktqueue.controls.base import Controls
from ktqueue.controls.memory import MemoryControls
from ktqueue.controls.sql import SqlControls
from ktqueue.controls.watched import WatchedControls
from ktqueue.errors import StoreUnavailable
from ktqueue.watched import FRESH_S
from tests.contract.conftest import URLS
from tests.support.scene import Clock, Outage, around


@pytest.fixture(params=["memory", *URLS])
def controls(request: pytest.FixtureRequest) -> Iterator[Controls]:
    if request.param == "memory":
        yield MemoryControls()
        return
    made = SqlControls(request.getfixturevalue(URLS[request.param]))
    yield made
    made.close()


def test_nothing_is_ordered_at_first(controls: Controls) -> None:
    assert controls.lanes() == {}


def test_mode_and_concurrency_are_ordered_apart(controls: Controls) -> None:
    controls.set_mode("a", LaneMode.PAUSED)
    controls.set_concurrency("b", 3)
    assert controls.lanes() == {"a": LaneControl(LaneMode.PAUSED), "b": LaneControl(concurrency=3)}
    controls.set_concurrency("a", 1)
    controls.set_mode("b", LaneMode.DRAINING)
    assert controls.lanes() == {"a": LaneControl(LaneMode.PAUSED, 1), "b": LaneControl(LaneMode.DRAINING, 3)}
    controls.set_mode("a", LaneMode.OPEN)
    controls.set_concurrency("a", None)
    assert controls.lanes()["a"] == UNCONTROLLED


def test_a_worker_serves_what_was_moved_to_it_and_not_what_was_moved_away(controls: Controls) -> None:
    assert controls.serving("gpu-1") == {}
    controls.move("a", source="gpu-1", target="gpu-2")
    controls.move("b", source=None, target="gpu-1")
    assert controls.serving("gpu-1") == {"a": False, "b": True}
    assert controls.serving("gpu-2") == {"a": True}
    controls.move("a", source="gpu-2", target="gpu-1")
    controls.move("b", source="gpu-1", target=None)
    assert controls.serving("gpu-1") == {"a": True, "b": False}
    assert controls.serving("gpu-2") == {"a": False}
    assert controls.lanes() == {}


def test_moves_to_and_fro_at_once_leave_it_with_one_of_both(sql_url: str) -> None:
    def to_and_fro(source: str, target: str) -> None:
        mine = SqlControls(sql_url)
        for _ in range(20):
            mine.move("a", source=source, target=target)
        mine.close()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(to_and_fro, ["gpu-1", "gpu-2"], ["gpu-2", "gpu-1"]))
    after = SqlControls(sql_url)
    assert {after.serving("gpu-1")["a"], after.serving("gpu-2")["a"]} == {True, False}
    after.close()


def test_they_outlive_the_process(sql_url: str) -> None:
    first = SqlControls(sql_url)
    first.set_mode("a", LaneMode.PAUSED)
    first.close()
    second = SqlControls(sql_url)
    assert second.lanes() == {"a": LaneControl(LaneMode.PAUSED)}
    second.close()


def test_a_process_reads_them_again_after_half_a_second_however_often_it_asks() -> None:
    clock, outage, truth = Clock(), Outage(StoreUnavailable), MemoryControls()
    watched = WatchedControls(around(lambda: truth, outage), clock.monotonic)
    assert watched.lane("a") == UNCONTROLLED
    truth.set_mode("a", LaneMode.PAUSED)
    assert [watched.lane("a").mode for _ in range(100)] == [LaneMode.OPEN] * 100
    assert outage.calls["lanes"] == 1
    clock.sleep(FRESH_S)
    assert watched.lane("a").mode is LaneMode.PAUSED
    assert outage.calls["lanes"] == 2


def test_while_the_database_is_away_the_last_word_holds() -> None:
    clock, outage, truth = Clock(), Outage(StoreUnavailable), MemoryControls()
    truth.set_mode("a", LaneMode.PAUSED)
    watched = WatchedControls(around(lambda: truth, outage), clock.monotonic)
    outage.go()
    with pytest.raises(StoreUnavailable):
        watched.lane("a")
    outage.come_back()
    assert watched.lane("a").mode is LaneMode.PAUSED
    outage.go()
    clock.sleep(FRESH_S)
    before = outage.calls["lanes"]
    assert [watched.lane("a").mode for _ in range(3)] == [LaneMode.PAUSED] * 3
    assert outage.calls["lanes"] == before + 1
