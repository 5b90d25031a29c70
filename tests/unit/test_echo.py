from __future__ import annotations

import subprocess
import sys
from signal import SIGKILL

import pytest

from ktqueue.job import JsonObject, Task
from ktqueue.models import ModelSpec
from ktqueue.room import Room
from worker.engines.base import Failed, Finished, Output, Request
from worker.engines.echo import LONGEST_REST_S, EchoEngine
from worker.engines.registry import load


class Time:
    """A clock that only rests move on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rests: list[float] = []

    def read(self) -> float:
        return self.now

    def rest(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


def engine(time: Time, *, max_batch: int = 8, faults: bool = False) -> EchoEngine:
    return EchoEngine(max_batch=max_batch, faults=faults, clock=time.read, sleep=time.rest)


def ask(job_id: str, params: JsonObject | None = None) -> Request:
    return Request(job_id, Task.ECHO, {"of": job_id, "deep": [1, {"x": None}]}, params or {})


def run(echo: EchoEngine) -> list[Output]:
    outputs: list[Output] = []
    while echo.capacity() < 8:
        outputs += echo.step()
    return outputs


def test_the_result_is_the_input_itself(time: Time) -> None:
    echo, request = engine(time), ask("a")
    echo.submit(request)
    (output,) = echo.step()
    assert isinstance(output, Finished)
    assert output.result is request.input
    assert output.usage is None
    assert time.rests == []


def test_all_that_is_due_ends_in_one_step_and_counts_who_shared_it(time: Time) -> None:
    echo = engine(time)
    for name, delay in (("a", 0), ("b", 0), ("c", 60)):
        echo.submit(ask(name, {"delay_ms": delay}))
    assert [(output.id, output.largest_batch) for output in echo.step() if isinstance(output, Finished)] == [
        ("a", 3),
        ("b", 3),
    ]
    assert [(output.id, output.largest_batch) for output in run(echo) if isinstance(output, Finished)] == [("c", 1)]
    assert time.now == pytest.approx(0.06)


def test_requests_end_when_their_delays_do(time: Time) -> None:
    echo = engine(time)
    for name, delay in (("late", 30), ("soon", 10), ("now", 0)):
        echo.submit(ask(name, {"delay_ms": delay}))
    assert [output.id for output in run(echo)] == ["now", "soon", "late"]


def test_a_step_rests_a_moment_where_nothing_is_due(time: Time) -> None:
    echo = engine(time)
    assert echo.step() == []
    echo.submit(ask("a", {"delay_ms": 7}))
    assert echo.step() == []
    assert len(echo.step()) == 1
    assert time.rests == pytest.approx([LONGEST_REST_S, 0.007 - LONGEST_REST_S])


def test_capacity_is_what_is_left_of_max_batch(time: Time) -> None:
    echo = engine(time, max_batch=2)
    assert echo.capacity() == 2
    for name in "abc":
        echo.submit(ask(name))
        assert echo.capacity() == max(0, 1 - "abc".index(name))
    assert len(echo.step()) == 3
    assert echo.capacity() == 2


def test_room_is_max_batch_whatever_is_in_it(time: Time) -> None:
    echo = engine(time, max_batch=2)
    echo.submit(ask("a"))
    assert echo.room() == Room(2)


def test_nothing_more_is_said_of_a_cancelled_request_even_if_it_comes_back(time: Time) -> None:
    echo = engine(time)
    echo.submit(ask("a", {"delay_ms": 1}))
    echo.cancel("a")
    echo.cancel("unknown")
    assert echo.capacity() == 8
    echo.submit(ask("a", {"delay_ms": 20}))
    assert [output.id for output in run(echo)] == ["a"]
    assert time.now == pytest.approx(0.02)


@pytest.mark.parametrize(("fail", "retryable"), [("permanent", False), ("retryable", True)])
def test_it_fails_as_asked(time: Time, fail: str, retryable: bool) -> None:
    echo = engine(time, faults=True)
    echo.submit(ask("a", {"fail": fail}))
    (output,) = echo.step()
    assert isinstance(output, Failed)
    assert (output.error.code, output.error.retryable) == ("engine_error", retryable)


def test_it_does_not_fail_on_request_where_faults_are_off(time: Time) -> None:
    echo = engine(time)
    echo.submit(ask("a", {"fail": "crash"}))
    echo.submit(ask("b"))
    failed, finished = echo.step()
    assert isinstance(failed, Failed)
    assert failed.error.code == "invalid_request"
    assert isinstance(finished, Finished)


def test_crash_kills_the_process() -> None:
    code = (
        "from ktqueue.job import Task; from ktqueue.models import ModelSpec; from worker.engines.base import Request\n"
        "from worker.engines.registry import load\n"
        "engine = load(ModelSpec(alias='e', engine='echo', faults=True), ('cpu',))\n"
        "engine.submit(Request('a', Task.ECHO, {}, {'fail': 'crash'})); engine.step()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -SIGKILL


def test_the_registry_loads_it_without_torch() -> None:
    assert isinstance(load(ModelSpec(alias="e", engine="echo", max_batch=3), ("cpu",)), EchoEngine)
    code = (
        "import sys; import worker.engines.registry; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
