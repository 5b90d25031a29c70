"""GET /api/v1/jobs/{id}/events: server-sent events. Invariant 6: gap-free, in order, resumable."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from werkzeug.test import TestResponse

from ktqueue.events.base import END, Event, EventId
from tests.api.wiring import JOBS, Api, problem_of


class Told(NamedTuple):
    """One event as a client reads it."""

    id: str
    type: str
    data: Any


def told(text: str) -> list[Told]:
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            events.append(Told(fields["id"], fields["event"], json.loads(fields["data"])))
    return events


def stream(api: Api, job_id: str, last: str | None = None) -> TestResponse:
    headers = {} if last is None else {"Last-Event-ID": last}
    return api.client.get(f"{JOBS}/{job_id}/events", headers=headers)


def succeeded(api: Api) -> str:
    job_id: str = api.accepted()["id"]
    api.succeed({"text": "héllo", "finish_reason": "stop"})
    return job_id


QUEUED = Told("0-1", "state", {"state": "queued"})
RUNNING = Told("1-0", "state", {"state": "running"})
TEXT = Told("1-5", "token", {"text": "héllo", "offset": 0})
SUCCEEDED = Told(f"1-{END}", "state", {"state": "succeeded"})


def test_a_job_that_has_ended_is_told_from_start_to_end(api: Api) -> None:
    answer = stream(api, succeeded(api))

    assert answer.status_code == 200
    assert answer.mimetype == "text/event-stream"
    assert answer.headers["Cache-Control"] == "no-store"
    text = answer.get_data(as_text=True)
    assert text.startswith("retry: 1000\n\n")
    assert told(text) == [QUEUED, RUNNING, TEXT, SUCCEEDED]


@pytest.mark.parametrize(
    ("last", "rest"),
    [
        ("", [QUEUED, RUNNING, TEXT, SUCCEEDED]),
        ("0-0", [QUEUED, RUNNING, TEXT, SUCCEEDED]),
        ("0-1", [RUNNING, TEXT, SUCCEEDED]),
        ("1-0", [TEXT, SUCCEEDED]),
        ("1-2", [Told("1-5", "token", {"text": "llo", "offset": 2}), SUCCEEDED]),
        ("1-5", [SUCCEEDED]),
    ],
)
def test_a_reader_resumes_after_any_event(api: Api, last: str, rest: list[Told]) -> None:
    assert told(stream(api, succeeded(api), last).get_data(as_text=True)) == rest


def test_after_the_last_event_there_is_nothing_to_reconnect_for(api: Api) -> None:
    answer = stream(api, succeeded(api), f"1-{END}")

    assert (answer.status_code, answer.data) == (204, b"")


def test_events_are_told_as_they_come_and_the_stream_ends_with_the_job(api: Api) -> None:
    job_id = api.accepted()["id"]
    chunks = stream(api, job_id).iter_encoded()

    def event() -> Told:
        while not (events := told(next(chunks).decode())):
            pass
        return events[0]

    assert event() == QUEUED
    (job,) = api.scene.claim()
    assert event() == RUNNING
    token = Event(job_id, EventId(1, 2), "token", {"text": "hé", "offset": 0})
    api.scene.true_events.publish([token])
    assert event() == Told("1-2", "token", {"text": "hé", "offset": 0})
    result = {"text": "héllo", "finish_reason": "stop"}
    api.scene.execution.settle([api.scene.execution.success(job, result, None, 1)])
    assert event() == Told("1-5", "token", {"text": "llo", "offset": 2})
    assert event() == SUCCEEDED
    assert list(chunks) == []


def test_silence_is_filled_with_comments(api: Api) -> None:
    chunks = stream(api, api.accepted()["id"]).iter_encoded()

    assert next(chunks) == b"retry: 1000\n\n"
    assert told(next(chunks).decode()) == [QUEUED]
    assert next(chunks) == b":\n\n"


def test_a_stream_without_place_is_refused_and_a_closed_one_gives_its_place_back() -> None:
    api = Api(max_waits=1)
    job_id = api.accepted()["id"]
    unread = stream(api, job_id)

    refused = stream(api, job_id)
    assert problem_of(refused, 503)["code"] == "too_many_readers"
    assert refused.headers["Retry-After"] == "2"

    unread.close()
    begun = stream(api, job_id)
    assert next(begun.iter_encoded())
    begun.close()
    api.succeed()
    for _ in range(3):
        finished = stream(api, job_id)
        assert told(finished.get_data(as_text=True))[-1] == SUCCEEDED
        finished.close()


def test_head_takes_no_place() -> None:
    api = Api(max_waits=0)

    answer = api.client.head(f"{JOBS}/{api.accepted()['id']}/events")

    assert (answer.status_code, answer.mimetype, answer.data) == (200, "text/event-stream", b"")


def test_a_stream_ends_when_its_job_is_deleted_or_the_database_goes_away(api: Api) -> None:
    for trouble in ("delete", "outage"):
        job_id = api.accepted()["id"]
        chunks = stream(api, job_id).iter_encoded()
        while not told(next(chunks).decode()):
            pass
        if trouble == "delete":
            api.client.post(f"{JOBS}/{job_id}/cancel")
            api.client.delete(f"{JOBS}/{job_id}")
        else:
            api.scene.claim()
            api.scene.sql.go()
        assert set(chunks) <= {b":\n\n"}


@pytest.mark.parametrize(
    "last", ["x", "1", "1-", "-1", "1-x", "1-4294967296", "1--1", "9" * 10 + "-1", "1-" + "9" * 5000]
)
def test_a_bad_last_event_id(api: Api, last: str) -> None:
    problem = problem_of(stream(api, api.accepted()["id"], last), 400)

    assert (problem["code"], problem["field"]) == ("malformed", "Last-Event-ID")
