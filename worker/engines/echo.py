"""The engine that gives back what it was given. It computes nothing, so it tells what all the rest costs."""

from __future__ import annotations

import heapq
import itertools
import os
import re
import signal
from collections.abc import Callable, Mapping

from ktqueue.job import JobError
from ktqueue.room import Room
from worker.engines.base import Cut, Failed, Finished, Output, Request, Vitals

LONGEST_REST_S = 0.005
"""A step waits at most so long for the next delay to end: whoever drains us wants to look around, and not to spin."""


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise() -> None:
    raise RuntimeError("raised as params.fail asked")


def _run_out_of_memory() -> None:
    raise MemoryError


def _hang() -> None:
    """For ever, as a kernel may: holding the interpreter, so that no thread of this process can do a thing about it."""
    re.match(r"(a+)+$", "a" * 100 + "b")


BREAKING: Mapping[str, Callable[[], None]] = {
    "crash": _crash,
    "raise": _raise,
    "memory": _run_out_of_memory,
    "hang": _hang,
}


class EchoEngine:
    """The result is the input, after ``params.delay_ms``.

    ``params.fail`` (``permanent``, ``retryable``; ``crash``, ``raise``, ``memory``, ``hang``) is honoured only with
    ``faults``; the latter take the whole engine along. ``clock`` and ``sleep`` are in seconds.
    """

    def __init__(
        self, *, max_batch: int, faults: bool, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._max_batch = max_batch
        self._faults = faults
        self._clock = clock
        self._sleep = sleep
        self._arrivals = itertools.count()
        self._held: dict[str, tuple[int, Request]] = {}
        # The arrival tells an entry from a later one of the same id, and keeps requests from being compared.
        self._due: list[tuple[float, int, str]] = []

    def capacity(self) -> int:
        """How many more requests it would take now."""
        return max(0, self._max_batch - len(self._held))

    def room(self) -> Room:
        """As many requests as may run together."""
        return Room(self._max_batch)

    def vitals(self) -> Vitals:
        """It has no tokens."""
        return Vitals()

    def submit(self, request: Request) -> None:
        """Take a request in; its delay begins now."""
        arrival = next(self._arrivals)
        self._held[request.id] = (arrival, request)
        due = self._clock() + request.params.get("delay_ms", 0) / 1000
        heapq.heappush(self._due, (due, arrival, request.id))

    def step(self) -> list[Output]:
        """End what is due. Where nothing is, rest for a moment."""
        if not self._held:
            self._due.clear()
            return []
        now = self._clock()
        if self._due[0][0] > now:
            self._sleep(min(self._due[0][0] - now, LONGEST_REST_S))
            now = self._clock()
        shared = len(self._held)
        outputs: list[Output] = []
        while self._due and self._due[0][0] <= now:
            _, arrival, job_id = heapq.heappop(self._due)
            held = self._held.get(job_id)
            if held is not None and held[0] == arrival:
                del self._held[job_id]
                outputs.append(self._outcome(held[1], shared))
        return outputs

    def cancel(self, job_id: str) -> None:
        """Forget a request; unknown ids are ignored."""
        self._held.pop(job_id, None)

    def cut(self, job_id: str) -> Cut:
        """End a request; half a result would be none."""
        self.cancel(job_id)
        return Cut(job_id)

    def _outcome(self, request: Request, shared: int) -> Output:
        fail = request.params.get("fail")
        if fail is None:
            return Finished(request.id, request.input, usage=None, largest_batch=shared)
        if not self._faults:
            return Failed(request.id, JobError("invalid_request", "params.fail: this model does not fail on request"))
        if fail in BREAKING:
            BREAKING[fail]()
        return Failed(
            request.id, JobError("engine_error", "failed as params.fail asked", retryable=fail == "retryable")
        )
