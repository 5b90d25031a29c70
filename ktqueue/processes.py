"""Keep a set of child processes running: start in order, restart what ends, stop within a bound, leave none.

A rolling restart replaces them one after the other.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from ktqueue.process import AFTER_GRACE_S, READY_FD, end_with_parent

TICK_S = 0.1
FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 5.0
SETTLED_S = 3.0
"""A child that ran this long is believed healthy: its next death starts the back-off anew."""
HASTY_S = 1.0
"""An end with status 0 is an orderly one, unless it comes sooner than this."""
START_TIMEOUT_S = 60.0
STDIN = 0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Program:
    """What to run.

    ``serves_others``: started before the rest, stopped after it, and left alone by a rolling restart.
    ``overlaps``: in a rolling restart its successor is started beside it, and has to `announce` itself.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    serves_others: bool = False
    overlaps: bool = False
    inherits: Sequence[int] = ()
    ready: Callable[[], bool] = field(default=lambda: True)


class _Child:
    """One program's process, through its lives. Each is the leader of a process group of its own."""

    def __init__(self, program: Program, *, besides: bool = False) -> None:
        self.program = program
        self.besides = besides
        """Whether it runs only as long as it is asked for."""
        self.wanted = False
        """Whether it is to run: to be started, and again whenever it has ended."""
        self._process: subprocess.Popen[bytes] | None = None
        self._ear: int | None = None
        self._announced = False
        self._started_at = 0.0
        self._backoff_s = FIRST_BACKOFF_S
        self._start_at = 0.0

    def tend(self) -> None:
        """Start what is to run: at once at first and after an orderly end, else once its back-off is over."""
        now = time.monotonic()
        if not self.wanted:
            return
        if self._process is not None and (code := self._process.poll()) is not None:
            self.signal(signal.SIGKILL)  # what it may have left of its group
            self._process = None
            self._has_ended(now, code)
        elif self._process is None and now >= self._start_at:
            try:
                self._start()
            except OSError as error:
                self._back_off(now, f"can't be started: {error.strerror}")

    def _start(self) -> None:
        self._started_at = time.monotonic()
        self._stop_listening()
        self._ear, mouth = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own programs, no shell
                list(self.program.argv),
                env={**self.program.env, READY_FD: str(mouth)},
                stdin=subprocess.DEVNULL,
                pass_fds=(*self.program.inherits, mouth),
                start_new_session=True,  # a Ctrl-C in the terminal reaches the supervisor alone, which stops in order
                preexec_fn=end_with_parent,  # noqa: PLW1509 - this process has one thread
            )
        finally:
            os.close(mouth)

    def ready(self) -> bool:
        """Whether it runs and does what its program promises; one that overlaps must have announced itself."""
        if self._process is None or (self.program.overlaps and not self._has_announced()):
            return False
        return self.program.ready()

    def _has_announced(self) -> bool:
        if not self._announced and self._ear is not None and select.select([self._ear], [], [], 0)[0]:
            self._announced = os.read(self._ear, 1) != b""
        return self._announced

    def _stop_listening(self) -> None:
        self._announced = False
        if self._ear is not None:
            os.close(self._ear)
            self._ear = None

    def _has_ended(self, now: float, code: int) -> None:
        lived_s = now - self._started_at
        if lived_s > SETTLED_S:
            self._backoff_s = FIRST_BACKOFF_S
        if code == 0 and lived_s > HASTY_S:
            logger.info("%s has ended in good order; again at once", self.program.name)
        else:
            self._back_off(now, f"ended with {_said(code)}")

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

    def gone(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def kill(self) -> None:
        """End it and its group, whatever is left of them; it is gone when this returns."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self._stop_listening()


class Supervisor:
    """Runs programs until SIGTERM or SIGINT, then ends them all within about ``grace_s`` + 4 s.

    SIGHUP replaces them one after the other, without those that serve the others.

    ``asked`` is called again and again, and must not wait: the programs that are to run besides, all of them, when that
    has changed; None is no news. One that is no longer among them is ended within the grace, and comes again, if it is
    asked for again, only then.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        grace_s: float,
        asked: Callable[[], Sequence[Program] | None] = lambda: None,
    ) -> None:
        self._servers = [_Child(program) for program in programs if program.serves_others]
        self._others = [_Child(program) for program in programs if not program.serves_others]
        self._leaving: list[tuple[_Child, float]] = []
        self._asked = asked
        self._besides: dict[str, Program] = {}
        self._grace_s = grace_s
        self._stopping = False
        self._rolling = False
        self._follows = False
        """Not before those that serve the others are ready, and not during a rolling restart."""
        self._in_terminal = os.isatty(STDIN)

    def run(self, on_ready: Callable[[], None], *, start_timeout_s: float = START_TIMEOUT_S) -> int:
        """Start everything, call ``on_ready`` once all are ready, tend until told to stop; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._hang_up)
        try:
            return self._run(on_ready, start_timeout_s)
        finally:
            self._end([*self._others, *(child for child, _ in self._leaving)], self._grace_s)
            self._end(self._servers, 0.0)

    def _run(self, on_ready: Callable[[], None], start_timeout_s: float) -> int:
        start_until = time.monotonic() + start_timeout_s
        for children in (self._servers, self._others):
            self._follows = children is self._others
            for child in children:
                child.wanted = True
            for child in list(children):
                if not self._tend_until(child.ready, start_until - time.monotonic()) and not self._stopping:
                    waiting = [each.program.name for each in children if not each.ready()]
                    logger.error("not ready in time: %s", ", ".join(waiting))
                    return 1
        if not self._stopping:
            on_ready()
        while not self._stopping:
            self._tend()
            if self._rolling:
                self._rolling = self._follows = False
                self._roll(start_timeout_s)
                self._follows = True
        return 0

    def _follow(self) -> None:
        """Start what is asked for besides, and end what is not any more."""
        if (programs := self._asked()) is not None:
            self._besides = {program.name: program for program in programs}
        now = time.monotonic()
        for child in [child for child in self._others if child.besides and child.program.name not in self._besides]:
            logger.info("%s is to end", child.program.name)
            child.wanted = False
            child.signal(signal.SIGTERM, group=False)
            self._others.remove(child)
            self._leaving.append((child, now + self._grace_s + AFTER_GRACE_S))
        for child, until in [each for each in self._leaving if each[0].gone() or now > each[1]]:
            child.kill()
            self._leaving.remove((child, until))
        there = {child.program.name for child in [*self._others, *(child for child, _ in self._leaving)]}
        for program in [program for name, program in self._besides.items() if name not in there]:
            new = _Child(program, besides=True)
            new.wanted = True
            self._others.append(new)

    def _roll(self, start_timeout_s: float) -> None:
        """Replace each program's process; no further once a new one does not get ready. Orders wait for the end."""
        logger.info("a rolling restart begins")
        for old in list(self._others):
            new = _Child(old.program, besides=old.besides)
            self._others.insert(self._others.index(old), new)
            if not old.program.overlaps:
                self._dismiss(old)
            new.wanted = True
            if not self._tend_until(new.ready, start_timeout_s):
                if old in self._others:
                    self._dismiss(new)
                logger.error("%s was not ready in time: the rolling restart ends here", new.program.name)
                return
            self._dismiss(old)
        logger.info("everything has been restarted")

    def _dismiss(self, child: _Child) -> None:
        """End one that has been replaced, within the grace."""
        child.wanted = False
        child.signal(signal.SIGTERM, group=False)
        self._tend_until(child.gone, self._grace_s + AFTER_GRACE_S)
        if not self._stopping and child in self._others:
            child.kill()
            self._others.remove(child)

    def _tend_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether the condition came true in time; told to stop, it does not wait for it."""
        until = time.monotonic() + seconds
        while not condition():
            if self._stopping or time.monotonic() > until:
                return False
            self._tend()
        return True

    def _tend(self) -> None:
        if self._follows:
            self._follow()
        for child in self._servers + self._others:
            child.tend()
        time.sleep(TICK_S)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _hang_up(self, _number: int, _frame: FrameType | None) -> None:
        """The same signal says that the terminal was closed: then there is no terminal any more."""
        if self._in_terminal and not os.isatty(STDIN):
            self._stopping = True
        else:
            self._rolling = True

    @staticmethod
    def _end(children: Sequence[_Child], grace_s: float) -> None:
        for child in children:
            child.signal(signal.SIGTERM, group=False)
        until = time.monotonic() + grace_s + AFTER_GRACE_S
        while time.monotonic() < until and not all(child.gone() for child in children):
            time.sleep(TICK_S / 2)
        for child in children:
            child.kill()


def _said(code: int) -> str:
    return f"status {code}" if code >= 0 else signal.Signals(-code).name
