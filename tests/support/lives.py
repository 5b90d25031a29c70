"""Random lives of a generate job: its row from moment to moment, and the events a worker would publish at each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from ktqueue.events.base import END, REQUEUED, Event, EventId
from ktqueue.job import Job, JobError, JobState, Task

FAULT = JobError("engine_error", "the engine failed", retryable=True)
NEW = Job(id="job_1", model="m", task=Task.GENERATE, input={"prompt": "hi"}, params={}, created_at=0, rank=0.0)
ENDS = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED)

TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)


@dataclass(frozen=True, slots=True)
class Moment:
    """The row as committed, and what is published next."""

    row: Job
    events: tuple[Event, ...]


def state(row: Job, offset: int) -> Event:
    """The event that tells a row's state."""
    data = {"state": row.state.value}
    if row.error is not None:
        data |= {"code": row.error.code, "message": row.error.message}
    return Event(row.id, EventId(row.claims, offset), "state", data)


def token(row: Job, before: str, text: str) -> Event:
    """The event that tells more text of a running job."""
    data = {"text": text, "offset": len(before), "progress": 0.5}
    return Event(row.id, EventId(row.claims, len(before) + len(text)), "token", data)


def ended(row: Job, end: JobState, text: str) -> Job:
    """The row once it has ended like that; ``text`` is what was generated."""
    row = replace(row, state=end, token=None, lease_until=None, finished_at=row.created_at + 1)
    if end is JobState.SUCCEEDED:
        return replace(row, result={"text": text, "finish_reason": "stop", "tokens": 1})
    return replace(row, error=FAULT) if end is JobState.FAILED else row


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim: what it generates, and how it ends (QUEUED: given back; None: it has not yet)."""

    texts: Sequence[str]
    end: JobState | None


CLAIMS = st.builds(Claim, st.lists(TEXTS, max_size=4), st.just(JobState.QUEUED))


@st.composite
def lives(draw: st.DrawFn, ends: Sequence[JobState | None] = (None, JobState.QUEUED, *ENDS)) -> list[Moment]:
    """From its submission to wherever it has come: one of ``ends``, where None is 'as it was left'."""
    in_queue = [end for end in ends if end in {None, JobState.CANCELLED, JobState.EXPIRED}]
    last_claims = st.builds(Claim, st.lists(TEXTS, max_size=4), st.sampled_from(ends))
    claims = draw(st.lists(CLAIMS, max_size=3)) + draw(st.lists(last_claims, min_size=0 if in_queue else 1, max_size=1))
    life = [Moment(NEW, (state(NEW, 1),))]
    for claim in claims:
        life += _moments(life[-1].row, claim)
    row = life[-1].row
    if row.state is JobState.QUEUED and (end := draw(st.sampled_from(in_queue))):
        row = ended(row, end, "")
        life.append(Moment(row, (state(row, END),)))
    return life


def _moments(row: Job, claim: Claim) -> list[Moment]:
    number = row.claims + 1
    row = replace(
        row, state=JobState.RUNNING, claims=number, attempt=number, token=f"t{number}", lease_until=1, started_at=1
    )
    moments = [Moment(row, (state(row, 0),))]
    text = ""
    for more in claim.texts:
        moments.append(Moment(row, (token(row, text, more),)))
        text += more
    if claim.end is JobState.QUEUED:
        row = replace(row, state=JobState.QUEUED, token=None, lease_until=None, started_at=None)
        moments.append(Moment(row, (state(row, REQUEUED),)))
    elif claim.end is not None:
        row = ended(row, claim.end, text)
        moments.append(Moment(row, (state(row, END),)))
    return moments
