"""Events: the live stream of a job, for whoever streams or waits. A convenience: the store is the truth.

An event's id is (claim, offset) and sorts. Claim 0 is the time before any claim. Within a claim, offset 0 is its
start, 1 … END-2 is how far the output has come (characters of text, items of a list), END-1 is 'back in the queue'
and END is the terminal event. So a reader that knows its last id can be brought up to date from the job's row alone,
exactly, whatever the stream has forgotten; and an event of an older claim can never follow one of a newer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ktqueue.errors import Invalid
from ktqueue.job import JsonObject

END = 2**32 - 1
REQUEUED = END - 1


class EventId(NamedTuple):
    """Where an event stands in its job's history; as text ``claim-offset``."""

    claim: int
    offset: int

    def __str__(self) -> str:
        return f"{self.claim}-{self.offset}"

    @classmethod
    def parse(cls, text: str) -> EventId:
        """From ``claim-offset``; raises Invalid."""
        claim, dash, offset = text.partition("-")
        if not (dash and claim.isascii() and claim.isdigit() and offset.isascii() and offset.isdigit()):
            raise Invalid("must be the id of an event of this job, like '1-17'", field="Last-Event-ID")
        if len(claim) > 9 or len(offset) > 10 or int(offset) > END:
            raise Invalid("must be the id of an event of this job, like '1-17'", field="Last-Event-ID")
        return cls(int(claim), int(offset))


START = EventId(0, 0)


@dataclass(frozen=True, slots=True)
class Event:
    """``type`` is 'state', 'token' or 'progress'; ``data`` is what clients see.

    - state: ``{"state": …}``
    - token: ``{"text": …, "offset": characters before it}``; the id's offset is that of its end
    - progress: ``{"progress": 0.0-1.0}``
    """

    job_id: str
    id: EventId
    type: str
    data: JsonObject


class Events(Protocol):
    """Publish and follow. Both are best effort: a lost event is made up for from the store."""

    def publish(self, events: Sequence[Event]) -> None:
        """Append, in order; an event whose id is not above its job's last is dropped. Raises LanesUnavailable."""

    def read(self, job_id: str, after: EventId, *, wait_s: float) -> list[Event]:
        """Events of a job above ``after``; waits up to ``wait_s`` for the first. Raises LanesUnavailable."""

    def latest(self, job_id: str) -> Event | None:
        """The newest event, if any is kept."""
