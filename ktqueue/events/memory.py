"""Events in this process's memory, for tests and single-process use."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from threading import Condition

from ktqueue.events.base import Event, EventId

KEPT = 4096
JOBS_KEPT = 10_000


class MemoryEvents:
    """Thread-safe. Keeps the newest events of the jobs that were last spoken of."""

    def __init__(self) -> None:
        self._streams: OrderedDict[str, deque[Event]] = OrderedDict()
        self._published = Condition()

    def publish(self, events: Sequence[Event]) -> None:
        """Append, in order; an event whose id is not above its job's last is dropped."""
        with self._published:
            for event in events:
                stream = self._streams.setdefault(event.job_id, deque(maxlen=KEPT))
                if not stream or event.id > stream[-1].id:
                    stream.append(event)
                    self._streams.move_to_end(event.job_id)
            while len(self._streams) > JOBS_KEPT:
                self._streams.popitem(last=False)
            self._published.notify_all()

    def read(self, job_id: str, after: EventId, *, wait_s: float) -> list[Event]:
        """Events of a job above ``after``; waits up to ``wait_s`` for the first."""
        with self._published:
            self._published.wait_for(lambda: self._above(job_id, after), timeout=wait_s)
            return self._above(job_id, after)

    def latest(self, job_id: str) -> Event | None:
        """The newest event, if any is kept."""
        with self._published:
            stream = self._streams.get(job_id)
            return stream[-1] if stream else None

    def _above(self, job_id: str, after: EventId) -> list[Event]:
        return [event for event in self._streams.get(job_id, ()) if event.id > after]
