"""Ends this process when one step of its engine takes too long."""

from __future__ import annotations

import signal
from types import TracebackType


class Watchdog:
    """``with watchdog:`` around a step. The kernel kills the process after ``seconds``.

    A thread of ours could not: whatever hangs may hold the interpreter's lock. An alarm that nobody handles needs
    nothing of this process. Only one may be in use, in the main thread.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
