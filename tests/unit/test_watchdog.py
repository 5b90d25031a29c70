"""The watchdog: it ends what hangs, even what holds the interpreter, and leaves alone what does not."""

from __future__ import annotations

import subprocess
import sys
from signal import SIGALRM

CODE = """
import re, sys
from worker.watchdog import Watchdog

watchdog = Watchdog(float(sys.argv[1]))
for _ in range(3):
    with watchdog:
        pass
try:
    with watchdog:
        raise ValueError
except ValueError:
    print("raised", flush=True)
with watchdog:
    re.match(r"(a+)+$", "a" * int(sys.argv[2]) + "b")
"""


def run(seconds: float, length: int) -> tuple[int, str]:
    command = [sys.executable, "-c", CODE, str(seconds), str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip()


def test_a_step_that_holds_the_interpreter_for_ever_is_ended() -> None:
    assert run(0.5, 100) == (-SIGALRM, "raised")


def test_steps_that_end_in_time_are_left_alone() -> None:
    assert run(60, 5) == (0, "raised")
