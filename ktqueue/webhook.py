"""What is told to webhooks: the events there are, who wants which, and what came of telling. Values, no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag, StrEnum

MOMENTS_A_CLAIM = 1_000_000
LAST_MOMENT = 1_000
"""Of a claim: the end comes after any progress, which is told in thousandths."""

PROGRESS_MS = 5_000
"""A job's progress is told no more often than this."""


class EventType(IntFlag):
    """What can happen to a job. Bits, so that a set of them is one number that SQL can test."""

    JOB_QUEUED = 1
    JOB_STARTED = 2
    JOB_PROGRESS = 4
    JOB_SUCCEEDED = 8
    JOB_FAILED = 16
    JOB_CANCELLED = 32
    JOB_EXPIRED = 64
    TEST = 128

    @property
    def title(self) -> str:
        """What receivers know it by."""
        return TITLES[self]


TITLES = {
    EventType.JOB_QUEUED: "job.queued",
    EventType.JOB_STARTED: "job.started",
    EventType.JOB_PROGRESS: "job.progress",
    EventType.JOB_SUCCEEDED: "job.succeeded",
    EventType.JOB_FAILED: "job.failed",
    EventType.JOB_CANCELLED: "job.cancelled",
    EventType.JOB_EXPIRED: "job.expired",
    EventType.TEST: "webhook.test",
}
SUBSCRIBABLE = {title: kind for kind, title in TITLES.items() if kind is not EventType.TEST}
"""What a job or an endpoint may ask for, by name; a test is only sent when it is asked for."""
_BITS = {title: int(kind) for title, kind in SUBSCRIBABLE.items()}

TERMINAL = EventType.JOB_SUCCEEDED | EventType.JOB_FAILED | EventType.JOB_CANCELLED | EventType.JOB_EXPIRED
"""What is told to those who did not say what they want."""


def events_named(titles: Iterable[str]) -> EventType:
    """The set of events with these names. Raises KeyError for one that nobody can ask for."""
    events = EventType(0)
    for title in titles:
        events |= SUBSCRIBABLE[title]
    return events


def titles_of(events: int) -> list[str]:
    """The names of a set of events, in the order in which they happen."""
    wanted = int(events)  # whose bits are tested in a tenth of the time
    return [title for title, bit in _BITS.items() if wanted & bit]


def event_of(state: str) -> EventType:
    """What has happened to a job that is now in this state."""
    return SUBSCRIBABLE["job.started" if state == "running" else f"job.{state}"]


def moment(kind: EventType, claims: int, progress: float | None = None) -> int:
    """Where an event stands among all of its job; ``claims`` is the job's count of them at the time."""
    if kind is EventType.JOB_PROGRESS:
        return claims * MOMENTS_A_CLAIM + max(1, min(LAST_MOMENT - 1, int((progress or 0.0) * LAST_MOMENT)))
    return claims * MOMENTS_A_CLAIM + (LAST_MOMENT if kind in TERMINAL else 0)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where one job's events go. ``target`` is the origin of ``url``, by which receivers are told apart."""

    url: str
    target: str
    events: EventType


class DeliveryState(StrEnum):
    """Where a delivery is: it is tried until it is delivered, or given up."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class Disabled(StrEnum):
    """Why an endpoint is told nothing."""

    GONE = "gone"
    FAILING = "failing"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one attempt to deliver.

    ``status`` is None when nobody answered, and then ``error`` says why: ``timeout``, ``connection_failed``,
    ``address_refused``, ``tls_failed``, ``name_not_resolved`` or ``answer_malformed``. ``body`` is how the answer
    began, as text.
    """

    status: int | None
    error: str | None
    duration_ms: int
    body: str = ""
    retry_after_s: int | None = None

    @property
    def good(self) -> bool:
        """Whether the receiver took it."""
        return self.status is not None and 200 <= self.status < 300


def event_id(job_id: str, seq: int, endpoint: str = "") -> str:
    """The id of an event, ``webhook-id``; the same in every attempt and for every receiver.

    A test belongs to no job but to its endpoint.
    """
    return f"evt_{(job_id or endpoint).partition('_')[2]}_{seq}"
