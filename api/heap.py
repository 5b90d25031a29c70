"""The C library's heaps: few, because what one thread has freed is then used by all others."""

from __future__ import annotations

import ctypes

HEAPS = 2
M_ARENA_MAX = -8
"""As glibc's malloc.h has it."""


def share_heaps() -> None:
    """Let all threads of this process, and of its children, share so many. Before the first of them is started.

    glibc gives up to eight a core to threads and each keeps what was once used in it, so the memory of a process with
    many threads grows for hours. Other C libraries have no such heaps.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, HEAPS)
