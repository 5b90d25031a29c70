"""Invariant 6: a job's events are gap-free and in order, and a reader resumes after any of them, from the row alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given

from ktqueue.events.base import END, START, Event, EventId
from ktqueue.history import history, terminal_event
from ktqueue.job import JobState, Task
from tests.support.lives import FAULT, NEW, Moment, lives


def states(events: list[Event]) -> list[Event]:
    return [event for event in events if event.type == "state"]


def text(events: list[Event], claim: int) -> str:
    return "".join(event.data["text"] for event in events if event.type == "token" and event.id.claim == claim)


@given(lives())
def test_resuming_after_any_event_yields_exactly_the_rest(life: list[Moment]) -> None:
    row, told = life[-1].row, [event for moment in life for event in moment.events]
    for seen in range(len(told) + 1):
        after = told[seen - 1].id if seen else START
        rest = list(history(row, after))

        assert all(one.id < other.id for one, other in pairwise(rest))
        assert all(event.id > after for event in rest)
        assert states(rest) == states(told[seen:])


@given(lives([JobState.SUCCEEDED]))
def test_the_text_before_and_after_a_resume_is_the_result(life: list[Moment]) -> None:
    row, told = life[-1].row, [event for moment in life for event in moment.events]
    assert row.result is not None
    for seen in range(len(told) + 1):
        rest = list(history(row, told[seen - 1].id if seen else START))

        assert text(told[:seen], row.claims) + text(rest, row.claims) == row.result["text"]
        for event in rest:
            assert event.type == "state" or event.id.offset == event.data["offset"] + len(event.data["text"])


@given(lives())
def test_a_row_tells_the_same_story_whenever_it_is_read(life: list[Moment]) -> None:
    told: list[Event] = []
    for moment in life:
        told += moment.events
        assert states(list(history(moment.row, START))) == states(told)


def test_a_job_cancelled_in_the_queue_was_not_running_last() -> None:
    given_back = replace(NEW, claims=1, state=JobState.CANCELLED, started_at=None)
    running = replace(NEW, claims=1, state=JobState.CANCELLED, started_at=7)

    assert [event.data["state"] for event in history(given_back, EventId(1, 0))] == ["queued", "cancelled"]
    assert [event.data["state"] for event in history(running, EventId(1, 0))] == ["cancelled"]


def test_a_text_that_no_engine_wrote_is_no_token() -> None:
    echoed = replace(NEW, claims=1, state=JobState.SUCCEEDED, started_at=7, result={"text": "mine"})

    assert {event.type for event in history(echoed, START)} == {"state"}


def test_an_end_says_why() -> None:
    failed = replace(NEW, claims=2, state=JobState.FAILED, error=FAULT)

    assert terminal_event(failed) == Event(
        "job_1",
        EventId(2, END),
        "state",
        {"state": "failed", "code": "engine_error", "message": "the engine failed"},
    )


def test_choices_are_told_anew_and_whole_unless_all_was_seen() -> None:
    texts = ["tea", "", "coffee"]
    result = {"choices": [{"text": text, "finish_reason": "stop", "tokens": []} for text in texts]}
    row = replace(NEW, task=Task.GENERATE, claims=1, state=JobState.SUCCEEDED, started_at=7, result=result)

    def rest(offset: int) -> list[str]:
        told = [event for event in history(row, EventId(1, offset)) if event.type == "token"]
        assert all(one.id < other.id for one, other in pairwise(told))
        assert all(event.data["offset"] == 0 for event in told)
        return [event.data["text"] for event in told]

    assert rest(0) == rest(5) == texts
    assert rest(9) == []
    assert [rest(10), rest(11), rest(12)] == [["", "coffee"], ["coffee"], []]
