"""What every process of the service does about the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

POLL_S = 0.25
AFTER_GRACE_S = 2.0
"""What a process may take once its grace is over: to give jobs back, close connections and leave."""
PR_SET_PDEATHSIG = 1
READY_FD = "READY_FD"
"""Names, in a process's environment, the descriptor that it writes to once it is ready."""


def die_with_parent(grace_s: float) -> None:
    """Terminate this process when its parent has died, and kill it if it is still there after its grace."""
    watch_parent(os.getppid(), lambda: os.kill(os.getpid(), signal.SIGTERM), grace_s)


def watch_parent(parent: int, on_death: Callable[[], None], grace_s: float) -> None:
    """Call ``on_death`` when the process ``parent`` is no longer this one's parent; after the grace, kill.

    Polls, because that is the same on every system and sees a parent that was killed with -9.
    """
    threading.Thread(target=_watch, args=(parent, on_death, grace_s), name="watch-parent", daemon=True).start()


def _watch(parent: int, on_death: Callable[[], None], grace_s: float) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    on_death()
    time.sleep(grace_s + AFTER_GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def end_with_parent() -> None:
    """Between fork and exec of a program that is not ours: let the kernel end it with its parent (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def announce() -> None:
    """Tell whoever started this process that it is ready, if they asked to be told."""
    if descriptor := os.environ.get(READY_FD):
        os.write(int(descriptor), b"\n")
