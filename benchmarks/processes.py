"""Processes that a benchmark starts, and certainly ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ktqueue.process import end_with_parent

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.02


@contextmanager
def running(
    argv: Sequence[str], env: dict[str, str], *, log: Path, ready: Callable[[], bool] = lambda: True
) -> Iterator[subprocess.Popen[bytes]]:
    """A process while the context lasts, given once ``ready()``. Raises RuntimeError if it dies before or dawdles."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(argv),
            cwd=ROOT,
            env=clean_env() | env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - this process has one thread
        )
    try:
        _await(process, ready, log)
        yield process
    finally:
        _end(process)


def python(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def run_once(argv: Sequence[str], env: dict[str, str], *, given: bytes = b"") -> None:
    """Run a process to its end, ``given`` on its stdin. Raises CalledProcessError."""
    subprocess.run(list(argv), cwd=ROOT, env=clean_env() | env, input=given, check=True)


def clean_env() -> dict[str, str]:
    """The environment of this process, without the settings of a ktqueue that is not under test."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KTQ_")}


def free_port() -> int:
    """A port that nobody listens on just now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many different ones."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def listens(port: int) -> bool:
    """Whether somebody does."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _await(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{process.args!r} did not come up:\n{log.read_text(encoding='utf-8')[-4000:]}")
        time.sleep(POLL_S)


def _end(process: subprocess.Popen[bytes]) -> None:
    """In good order, and what it leaves of its group at once."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
