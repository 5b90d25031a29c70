"""Failpoints: dead where it was asked for, once, and not there at all unless they were asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from signal import SIGKILL

import pytest

from ktqueue.failpoints import Failpoints

CODE = """
import sys
from ktqueue.failpoints import Failpoints

class Port:
    def call(self, number):
        print(number, flush=True)
        return number

port = Failpoints(sys.argv[1]).around("port", Port())
assert port.call(1) == 1
assert port.call(2) == 2
assert Failpoints(sys.argv[1]).around("bell", print)("rung", flush=True) is None
"""


def run(folder: Path) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, "-c", CODE, str(folder)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("port.call.before", []),
        ("port.call.after", ["1"]),
        ("bell.before", ["1", "2"]),
        ("bell.after", ["1", "2", "rung"]),
    ],
)
def test_a_process_dies_where_it_was_asked_to_and_once(tmp_path: Path, point: str, said: list[str]) -> None:
    (tmp_path / point).touch()

    assert run(tmp_path) == (-SIGKILL, said)
    assert run(tmp_path) == (0, ["1", "2", "rung"])


def test_without_a_folder_a_port_is_left_as_it_is() -> None:
    port = object()

    assert Failpoints("").around("port", port) is port
