"""Keys as they are pressed, where there is a terminal to press them at."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Pause: TypeAlias = Callable[[float], bool]
"""Waits so many seconds, or until a key is pressed that ends the command: then it says True at once."""

END = b"qQ"


@contextmanager
def pauses(sleep: Callable[[float], None]) -> Iterator[Pause]:
    """A `Pause`. Where nobody can press a key it is a ``sleep``; the terminal is left as it was found."""
    if not sys.stdin.isatty():
        yield lambda seconds: _rest(sleep, seconds)
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    # Keys come one by one and are not shown; Ctrl-C stays what it is.
    tty.setcbreak(descriptor)
    try:
        yield lambda seconds: _ended(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _ended(descriptor: int, seconds: float) -> bool:
    ready, _, _ = select.select([descriptor], [], [], seconds)
    return bool(ready) and any(key in END for key in os.read(descriptor, 64))


def _rest(sleep: Callable[[float], None], seconds: float) -> bool:
    sleep(seconds)
    return False
