"""`ktqueue top`: what a frame shows, what fits, and a server that goes away."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from ktqueue.cli.app import App
from ktqueue.cli.frame import Seen, frame, shares, size
from ktqueue.cli.top import View
from ktqueue.client import ConnectionFailed, Lane, Worker
from tests.support.cli import run
from tests.support.client import Server, listing
from tests.support.stack import until

PATIENCE_S = 80.0
HEAD = "ktqueue top  http://box:8000  12:00:00"


def lane(model: str = "chat", **given: Any) -> dict[str, Any]:
    return {"model": model, "object": "lane", "mode": "open", "depth": 12, "running": 3, "throughput": 1.25,
            "oldest_wait_seconds": 61.0, "concurrency": None, "capacity": None, "eta_error": None} | given  # fmt: skip


def worker(model: str = "chat", slot: int = 0, **given: Any) -> dict[str, Any]:
    pulse = {
        "prompt_tokens_per_second": 1500.0, "generated_tokens_per_second": 2048.4, "busy": 0.755, "batch": 31.5,
        "cache_blocks": 200, "cache_blocks_used": 50, "memory_bytes": 9_400_000_000,
        "device_memory_bytes": 143_000_000_000, "device_memory_used_bytes": 71_500_000_000,
    }  # fmt: skip
    return {"name": "box:1:2:m", "object": "worker", "host": "box", "pid": 1, "model": model, "slot": slot,
            "device": "cuda:0 (NVIDIA H200)", "capacity": {"jobs": 256, "cache_tokens": 3200, "block_tokens": 16},
            "running": 3, "pulse": pulse, "ready_at": "2026-01-02T03:04:05Z",
            "heartbeat_at": "2026-01-02T03:04:05Z"} | given  # fmt: skip


def seen(lanes: int = 1, workers: int = 1) -> Seen:
    return Seen(
        [Lane.model_validate(lane(f"model-{number}", depth=number)) for number in range(lanes)],
        [Worker.model_validate(worker(f"model-{number}")) for number in range(workers)],
    )


def drawn(what: Seen, trouble: str | None = None, *, width: int = 80, height: int | None = 24) -> list[str]:
    console = Console(width=width, height=height, color_system=None)
    with console.capture() as capture:
        console.print(frame(what, HEAD, trouble, height=height))
    return [line.rstrip() for line in capture.get().splitlines()]


def words(line: str) -> str:
    return " ".join(line.split())


def test_a_frame_shows_lanes_slots_and_their_sums() -> None:
    told = Seen([Lane.model_validate(lane())], [Worker.model_validate(worker(slot=1))])
    assert [words(line) for line in drawn(told)] == [
        words(HEAD),
        "12 waiting 3 running 1 slot 2,048 tokens/s out 9.4 GB in slots",
        "",
        "lane mode waiting running jobs/s oldest tokens/s",
        "chat open 12 3 1.2 1 min 2,048",
        "",
        "slot device jobs batch busy in/s out/s cache memory gpu",
        "chat/1 cuda:0 3/256 32 76% 1,500 2,048 25% 9.4 GB 50%",
    ]


def test_what_nobody_knows_or_has_is_a_dash() -> None:
    idle = lane(throughput=None, oldest_wait_seconds=None, concurrency=4)
    told = Seen([Lane.model_validate(idle)], [Worker.model_validate(worker(device="cpu", pulse={}))])
    lines = [words(line) for line in drawn(told)]
    assert lines[4] == "chat open 12 3/4 – – 0"
    assert lines[7] == "chat/0 cpu 3/256 0 0% 0 0 – 0 B –"


def test_the_busiest_are_shown_where_not_all_can_be() -> None:
    lines = drawn(seen(30, 30))
    assert len(lines) == 24
    assert [line.split()[0] for line in lines[4:12]] == [f"model-{number}" for number in range(29, 21, -1)]
    assert lines[12] == "… and 22 more"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(10, 40))
def test_a_frame_fits_its_terminal(lanes: int, workers: int, height: int) -> None:
    assert len(drawn(seen(lanes, workers), height=height)) <= height


@given(st.integers(0, 60), st.integers(0, 60), st.integers(2, 60))
def test_no_room_is_left_empty_while_rows_are_left_out(lanes: int, workers: int, room: int) -> None:
    shown = shares(lanes, workers, room)
    assert sum(shown) <= room
    assert shown == (lanes, workers) or sum(shown) >= room - 1


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_lines_are_no_longer_than_a_terminal_is_wide(width: int) -> None:
    lines = drawn(seen(3, 3), "no answer " * 20, width=width)
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (9_960, "10 kB"), (568_000_000, "568 MB"), (999_600_000, "1.0 GB"),
     (143_000_000_000, "143 GB"), (2_000_000_000_000, "2.0 TB")],
)  # fmt: skip
def test_sizes_are_for_people(count: int, said: str) -> None:
    assert size(count) == said


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_server_that_goes_away_is_told_and_survived() -> None:
    clock, there = Clock(), [True]

    def look() -> Seen:
        if not there[0]:
            raise ConnectionFailed("can't reach http://box:8000: refused", sent=False)
        return seen()

    def line() -> str:
        view.look()
        console = Console(width=80, color_system=None)
        with console.capture() as capture:
            console.print(view.frame(24))
        return capture.get().splitlines()[1]

    view = View("http://box:8000", look, clock)
    assert "1 slot" in line()
    there[0] = False
    assert line() == "no answer for 0 ms, trying again: can't reach http://box:8000: refused"
    clock.now = 90.0
    assert line().startswith("no answer for 2 min, trying again")
    there[0] = True
    assert "1 slot" in line()


def handler(request: httpx.Request) -> httpx.Response:
    return listing([lane() if request.url.path.endswith("lanes") else worker()])


def test_one_frame_is_printed_for_scripts() -> None:
    result = run(Server(handler=handler), "top", "--once")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "3/256" in result.stdout


def test_as_json_it_is_what_the_server_said() -> None:
    result = run(Server(handler=handler), "top", "--json")
    assert [line["object"] for line in map(json.loads, result.stdout.splitlines())] == ["lane", "worker"]


def test_one_frame_of_nobody_exits_3() -> None:
    result = run(Server(*[httpx.ConnectError("refused")] * 4), "top", "--once")
    assert result.exit_code == 3


def test_where_nobody_can_press_a_key_ctrl_c_ends_it() -> None:
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            raise KeyboardInterrupt

    app = App(environ={}, transport=httpx.MockTransport(Server(handler=handler)), sleep=sleep)
    result = run(Server(), "top", "--interval", "0.5", app=app)
    assert (result.exit_code, naps) == (0, [0.5] * 3)
    assert "chat/0" in result.stdout


def on_terminal(act: Callable[[int], object]) -> int:
    """`ktqueue top` of nobody on a terminal of its own: what ``act`` does to it, and how it ends."""
    here, there = pty.openpty()
    try:
        command = [sys.executable, "-m", "ktqueue.cli", "top", "--url", "http://127.0.0.1:1"]
        process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there)
        said = b""

        def shown() -> bool:
            nonlocal said
            said += os.read(here, 65_536)
            return b"no answer" in said

        until(shown, "a frame", PATIENCE_S)
        act(here)
        return process.wait(PATIENCE_S)
    finally:
        os.close(here)
        os.close(there)


@pytest.mark.parametrize("key", [b"q", b"Q"])
def test_q_ends_it(key: bytes) -> None:
    assert on_terminal(lambda terminal: os.write(terminal, key)) == 0
