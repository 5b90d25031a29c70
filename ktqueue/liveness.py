"""Whether the process that holds a job still lives, as far as a neighbour on the same machine can tell.

What it can't tell, the lease decides some seconds later.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

PROC = Path("/proc")
STATE, START = 0, 19
"""Fields of /proc/<pid>/stat, counted from the one after the command's name; see proc(5)."""


def identity() -> str:
    """How this process is named as a worker: ``host:pid:start:machine``.

    A pid is used again, so its start time belongs to it; ``machine`` is the kernel's boot and the pid namespace, within
    which a pid means anything. Where there is no /proc both are empty.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{_start(os.getpid()) or ''}:{_machine()}"


def is_dead(worker: str) -> bool:
    """Whether that worker is known to be gone. False for one of another machine, and where nobody can tell."""
    _, pid, start, machine = worker.rsplit(":", 3) if worker.count(":") >= 3 else ("", "", "", "")
    return bool(machine) and machine == _machine() and _start(int(pid)) != start


def _start(pid: int) -> str | None:
    """When a process started, in clock ticks since boot; None if there is none, or it is dead and not yet buried."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name may hold anything, brackets and blanks too.
    fields = stat.rpartition(")")[2].split()
    return None if fields[STATE] in "ZX" else fields[START]


def _machine() -> str:
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{(PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:
        return ""
