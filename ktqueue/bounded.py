"""A question that may take long, waited for no longer than a bound."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Generic, TypeVar

T = TypeVar("T")


class Bounded(Generic[T]):
    """Asks in a thread of its own, and never twice at once: whoever comes meanwhile waits for the same answer."""

    def __init__(self, ask: Callable[[], T], *, most_s: float) -> None:
        self._ask = ask
        self._most_s = most_s
        self._lock = Lock()
        self._asked: Future[T] | None = None

    def __call__(self) -> T:
        """The answer. Raises TimeoutError if it does not come in time, and whatever the question raised."""
        with self._lock:
            if self._asked is None:
                self._asked = Future()
                Thread(target=self._run, args=(self._asked,), name="bounded", daemon=True).start()
            asked = self._asked
        try:
            return asked.result(self._most_s)
        finally:
            with self._lock:
                # What came is told to those who waited for it; the next one asks anew.
                if asked.done() and self._asked is asked:
                    self._asked = None

    def _run(self, asked: Future[T]) -> None:
        try:
            asked.set_result(self._ask())
        except Exception as error:  # noqa: BLE001 - it is raised again where the answer is waited for
            asked.set_exception(error)
