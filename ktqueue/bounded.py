"""A question that may take long, asked for no longer than a bound."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Generic, TypeVar

from ktqueue.errors import Unavailable

T = TypeVar("T")


class Bounded(Generic[T]):
    """Asks in a thread of its own, and never twice at once: whoever comes meanwhile waits for the same answer."""

    def __init__(self, ask: Callable[[], T], *, most_s: float) -> None:
        self._ask = ask
        self._most_s = most_s
        self._lock = Lock()
        self._asked: Future[T] | None = None

    def __call__(self) -> T | None:
        """The answer; None if it does not come in time, or who was asked is away."""
        with self._lock:
            if self._asked is None or self._asked.done():
                self._asked = Future()
                Thread(target=self._run, args=(self._asked,), name="bounded", daemon=True).start()
            asked = self._asked
        try:
            return asked.result(self._most_s)
        except (TimeoutError, Unavailable):
            return None

    def _run(self, asked: Future[T]) -> None:
        try:
            asked.set_result(self._ask())
        except Exception as error:  # noqa: BLE001 - it is raised again where the answer is waited for
            asked.set_exception(error)
