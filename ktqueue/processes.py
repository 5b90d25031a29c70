"""Keep a set of child processes running: start in order, restart with back-off, stop within a bound, leave none."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from ktqueue.process import AFTER_GRACE_S, end_with_parent

TICK_S = 0.1
FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 15.0
SETTLED_S = 30.0
"""A child that ran this long is believed healthy: its next death starts the back-off anew."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. ``serves_others``: started before the rest, and stopped after it."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    serves_others: bool = False
    ready: Callable[[], bool] = field(default=lambda: True)


class _Child:
    """One program's process, through its lives. Each is the leader of a process group of its own."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._backoff_s = FIRST_BACKOFF_S
        self._start_at = 0.0

    def start(self) -> None:
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603 - our own programs, no shell
            list(self.program.argv),
            env=dict(self.program.env),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal reaches the supervisor alone, which stops in order
            preexec_fn=end_with_parent,  # noqa: PLW1509 - this process has one thread
        )

    def tend(self) -> None:
        """Start again what has died, once its back-off is over; leave alone what was never started."""
        now = time.monotonic()
        if not self._started_at:
            return
        if self._process is not None and (code := self._process.poll()) is not None:
            self.signal(signal.SIGKILL)  # what it may have left of its group
            self._process = None
            if now - self._started_at > SETTLED_S:
                self._backoff_s = FIRST_BACKOFF_S
            self._back_off(now, f"ended with {_said(code)}")
        elif self._process is None and now >= self._start_at:
            try:
                self.start()
            except OSError as error:
                self._back_off(now, f"can't be started: {error.strerror}")

    def _back_off(self, now: float, why: str) -> None:
        logger.warning("%s %s; again in %.1f s", self.program.name, why, self._backoff_s)
        self._start_at = now + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, LONGEST_BACKOFF_S)

    def signal(self, number: signal.Signals, *, group: bool = True) -> None:
        if self._process is None:
            return
        try:
            (os.killpg if group else os.kill)(self._process.pid, number)
        except ProcessLookupError:
            logger.debug("%s is gone already", self.program.name)

    def bury(self) -> None:
        """Wait for a process that was killed, so that it is gone when this returns."""
        if self._process is not None:
            self._process.wait()

    def gone(self) -> bool:
        return self._process is None or self._process.poll() is not None


class Supervisor:
    """Runs programs until SIGTERM or SIGINT, then ends them all within about ``grace_s`` + 4 s."""

    def __init__(self, programs: Sequence[Program], *, grace_s: float) -> None:
        self._servers = [_Child(program) for program in programs if program.serves_others]
        self._others = [_Child(program) for program in programs if not program.serves_others]
        self._grace_s = grace_s
        self._stopping = False

    def run(self, on_ready: Callable[[], None], *, start_timeout_s: float = 60.0) -> int:
        """Start everything, call ``on_ready`` once all are ready, tend until told to stop; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        try:
            return self._run(on_ready, time.monotonic() + start_timeout_s)
        finally:
            self._end(self._others, self._grace_s)
            self._end(self._servers, 0.0)

    def _run(self, on_ready: Callable[[], None], start_until: float) -> int:
        for children in (self._servers, self._others):
            for child in children:
                child.start()
            while not self._stopping and not all(child.program.ready() for child in children):
                if time.monotonic() > start_until:
                    waiting = [child.program.name for child in children if not child.program.ready()]
                    logger.error("not ready in time: %s", ", ".join(waiting))
                    return 1
                self._tend()
        if not self._stopping:
            on_ready()
        while not self._stopping:
            self._tend()
        return 0

    def _tend(self) -> None:
        for child in self._servers + self._others:
            child.tend()
        time.sleep(TICK_S)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    @staticmethod
    def _end(children: Sequence[_Child], grace_s: float) -> None:
        for child in children:
            child.signal(signal.SIGTERM, group=False)
        until = time.monotonic() + grace_s + AFTER_GRACE_S
        while time.monotonic() < until and not all(child.gone() for child in children):
            time.sleep(TICK_S / 2)
        for child in children:
            child.signal(signal.SIGKILL)  # of its group too, whatever is left
            child.bury()


def _said(code: int) -> str:
    return f"status {code}" if code >= 0 else signal.Signals(-code).name
