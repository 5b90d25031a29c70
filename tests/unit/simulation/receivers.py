"""Those who are told: they note what they hear, and object to what they should not."""

from __future__ import annotations

from collections import defaultdict

from ktqueue.delivery import Dispatch
from ktqueue.job import Job, JobState
from ktqueue.outbox.base import DeliveryQuery
from ktqueue.outbox.memory import MemoryOutbox
from ktqueue.store.memory import MemoryStore
from ktqueue.webhook import TERMINAL, DeliveryState, EventType, event_of


class Receivers:
    """All of them, each job having one."""

    def __init__(self, store: MemoryStore, outbox: MemoryOutbox) -> None:
        self._store = store
        self._outbox = outbox
        self._bodies: dict[str, bytes] = {}
        self._heard: defaultdict[str, dict[int, EventType]] = defaultdict(dict)

    def receive(self, dispatch: Dispatch) -> None:
        """Hear of an event, maybe not for the first time."""
        delivery = dispatch.delivery
        assert self._bodies.setdefault(dispatch.event_id, dispatch.body) == dispatch.body, (
            "7: it says something else now"
        )
        job = self._store.get(delivery.job_id)
        assert job is not None
        if delivery.type in TERMINAL:
            assert event_of(job.state) is delivery.type, "7: told before it was so"
        heard = self._heard[job.id]
        for earlier in self._outbox.deliveries(DeliveryQuery(job_id=job.id, limit=1_000)):
            failing = earlier.attempts > 0 or earlier.state is not DeliveryState.PENDING
            assert earlier.seq >= delivery.seq or earlier.seq in heard or failing, "7: out of order"
        heard[delivery.seq] = delivery.type

    def check_end(self, job: Job) -> None:
        """Everything that happened to a job that has ended was heard of."""
        if job.webhook is None:
            assert not self._heard[job.id], "7: nobody asked"
            return
        heard = [kind for _, kind in sorted(self._heard[job.id].items()) if kind is not EventType.JOB_PROGRESS]
        started = [EventType.JOB_STARTED] * job.claims
        assert job.state is not JobState.QUEUED
        assert heard == [EventType.JOB_QUEUED, *started, event_of(job.state)], "7"
