"""The events of a job, told from its row alone. Pure.

Every claim but the last ended back in the queue, and so did the last if the row says that no run has started; text
restarts with each claim. So a row says what its history was, whatever the live stream has forgotten, and a reader can
resume after any event it has seen.
"""

from __future__ import annotations

from collections.abc import Iterator

from ktqueue.events.base import END, REQUEUED, Event, EventId
from ktqueue.job import Job, JobError, JobState, Task


def history(job: Job, after: EventId) -> Iterator[Event]:
    """What happened to ``job`` after the event ``after``, as far as its row tells."""
    return (event for event in _all(job, after) if event.id > after)


def _all(job: Job, after: EventId) -> Iterator[Event]:
    yield _state(job, EventId(0, 1), JobState.QUEUED)
    for claim in range(max(1, after.claim), job.claims + 1):
        yield _state(job, EventId(claim, 0), JobState.RUNNING)
        if claim < job.claims or job.started_at is None:
            yield _state(job, EventId(claim, REQUEUED), JobState.QUEUED)
    if job.state.terminal:
        yield from _rest_of_text(job, after)
        yield terminal_event(job)


def _rest_of_text(job: Job, after: EventId) -> Iterator[Event]:
    result = job.result or {}
    seen = after.offset if after.claim == job.claims else 0
    if isinstance(result.get("text"), str) and "finish_reason" in result:
        text = result["text"]
        if seen < len(text):
            yield Event(job.id, EventId(job.claims, len(text)), "token", {"text": text[seen:], "offset": seen})
    elif job.task is Task.GENERATE and isinstance(result.get("choices"), list):
        yield from _choices(job, [str(choice.get("text", "")) for choice in result["choices"]], seen)


def _choices(job: Job, texts: list[str], seen: int) -> Iterator[Event]:
    """Several texts. How they came mixed is forgotten, so what is not all seen is told anew, a text whole each.

    Their ids follow the last that can have been told live, which counts the characters of all.
    """
    live = sum(len(text) for text in texts)
    if seen == live:
        return
    for choice in range(max(0, seen - live), len(texts)):
        data = {"text": texts[choice], "offset": 0, "choice": choice}
        yield Event(job.id, EventId(job.claims, live + 1 + choice), "token", data)


def requeued_event(job: Job) -> Event:
    """What is told when the job, as it was claimed last, goes back to wait."""
    return _state(job, EventId(job.claims, REQUEUED), JobState.QUEUED)


def terminal_event(job: Job) -> Event:
    """The last event of a job that has ended."""
    return end_event(job, job.state, job.error)


def end_event(job: Job, state: JobState, error: JobError | None) -> Event:
    """The last event of a job that has just ended so; ``job`` is as it was before."""
    data = {"state": state.value}
    if error is not None:
        data |= {"code": error.code, "message": error.message}
    return Event(job.id, EventId(job.claims, END), "state", data)


def _state(job: Job, event_id: EventId, state: JobState) -> Event:
    return Event(job.id, event_id, "state", {"state": state.value})
