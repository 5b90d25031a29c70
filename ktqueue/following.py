"""Waiting for a job and following it as it runs: the live stream, with the store's word before and after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

from ktqueue.errors import LanesUnavailable
from ktqueue.events.base import END, REQUEUED, START, Event, EventId, Events
from ktqueue.history import history
from ktqueue.job import Job
from ktqueue.ownership import owned
from ktqueue.store.base import Store
from ktqueue.tenant import DEFAULT_TENANT

LOOK_AGAIN_S = 5.0
"""A reader asks the store this often even when the stream is silent: an event may have been lost."""
LOOK_AGAIN_BLIND_S = 0.25
"""…and this often while the stream can't be read at all."""

logger = logging.getLogger(__name__)


class Following:
    """Readers of one job's progress."""

    def __init__(
        self,
        store: Store,
        events: Events,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._events = events
        self._clock = clock
        self._sleep = sleep

    def wait(self, job_id: str, timeout_s: float, tenant: str = DEFAULT_TENANT) -> Job:
        """The job once it is terminal, or as it is after ``timeout_s``. Raises NotFound."""
        until = self._clock() + timeout_s
        job = self._get(job_id, tenant)
        cursor = EventId(job.claims, 0)
        while not job.state.terminal and (left := until - self._clock()) > 0:
            events = self._read(job_id, cursor, left)
            cursor = events[-1].id if events else cursor
            if not events or cursor.offset == END or self._clock() >= until:
                job = self._get(job_id, tenant)
        return job

    def follow(self, job_id: str, after: EventId = START, tenant: str = DEFAULT_TENANT) -> Iterator[Event | None]:
        """Every event above ``after`` in order, up to the terminal one; None now and then, when all is quiet."""
        cursor = after
        whole = True
        while True:
            job = self._get(job_id, tenant)
            for event in history(job, cursor):
                yield event
                cursor, whole = event.id, True
            if job.state.terminal:
                return
            yield None
            for event in self._live(job_id, cursor):
                if event.id <= cursor:
                    continue
                if event.type == "token" and event.id.offset - len(event.data["text"]) != cursor.offset:
                    # A hole in the text, of all choices together: the stream lost some. The row will tell the rest when
                    # the job ends.
                    whole = False
                if whole:
                    yield event
                    cursor = event.id

    def _live(self, job_id: str, cursor: EventId) -> Iterator[Event]:
        """Events of the claim at ``cursor`` as they come; ends when something else happened, or nothing did."""
        while events := self._read(job_id, cursor, LOOK_AGAIN_S):
            for event in events:
                if event.id.claim != cursor.claim or event.id.offset in {REQUEUED, END}:
                    return
                yield event
                cursor = event.id

    def _read(self, job_id: str, after: EventId, wait_s: float) -> list[Event]:
        try:
            return self._events.read(job_id, after, wait_s=min(wait_s, LOOK_AGAIN_S))
        except LanesUnavailable as error:
            logger.debug("events of %s can't be read, asking the store instead: %s", job_id, error)
            self._sleep(min(wait_s, LOOK_AGAIN_BLIND_S))
            return []

    def _get(self, job_id: str, tenant: str) -> Job:
        return owned(self._store.get(job_id), job_id, tenant)
