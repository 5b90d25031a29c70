"""What both clients do, over one suite: requests, answers, errors, retries, waits and streams."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from ktqueue.client import (
    ApiError,
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    Job,
    KtqueueClientError,
    NotFound,
    RateLimited,
    ServerError,
    Unavailable,
)
from ktqueue.job import JobState
from tests.support.client import (
    BROKEN,
    LATE,
    REFUSED,
    AsyncSubject,
    Chunks,
    Connect,
    Server,
    Subject,
    SyncSubject,
    World,
    answer,
    job_json,
    listing,
    problem,
)

# --- submitting ---


def test_a_submit_says_what_was_given_and_no_more(connect: Connect) -> None:
    server = Server(answer(status=202, surprise={"new": "field"}))
    job = connect(server).call("submit", "echo", {"n": 1})
    assert server.lines == ["POST /api/v1/jobs"]
    assert server.sent() == {"model": "echo", "input": {"n": 1}}
    assert "prefer" not in server.asked[0].headers
    assert isinstance(job, Job)
    assert (job.id, job.state, job.timing.queued_ms) == ("job_1", JobState.QUEUED, 12)
    assert job.created_at == datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
    assert job.model_dump()["surprise"] == {"new": "field"}


def test_every_option_of_a_submit_reaches_the_server(connect: Connect) -> None:
    server = Server(answer("succeeded"))
    options = {"task": "generate", "params": {"seed": 1}, "priority": 9, "max_attempts": 1, "metadata": {"a": "b"}}
    connect(server).call(
        "submit",
        "m",
        "Hello",
        idempotency_key="mine",
        wait=2.5,
        deadline_seconds=60,
        run_at=datetime(2026, 1, 1, tzinfo=UTC),
        **options,
    )
    assert server.sent() == {
        "model": "m",
        "input": {"prompt": "Hello"},
        "deadline_seconds": 60,
        "run_at": "2026-01-01T00:00:00Z",
        **options,
    }
    assert server.asked[0].headers["idempotency-key"] == "mine"
    assert server.asked[0].headers["prefer"] == "wait=3"
    assert server.asked[0].extensions["timeout"]["read"] == 32.5


@pytest.mark.parametrize("task", ["embed", "classify"])
def test_a_string_is_a_text_where_the_task_wants_one(connect: Connect, task: str) -> None:
    server = Server(answer())
    connect(server).call("submit", "m", "Hello", task=task)
    assert server.sent()["input"] == {"text": "Hello"}


def test_a_number_that_json_does_not_have_is_not_sent(connect: Connect) -> None:
    server = Server()
    with pytest.raises(ValueError, match="JSON"):
        connect(server).call("submit", "m", {"n": float("nan")})
    assert server.asked == []


@pytest.mark.parametrize("key", ["", "é", "a\nb", "a b", "x" * 256])
def test_a_key_that_no_header_can_carry_is_not_sent(connect: Connect, key: str) -> None:
    server = Server()
    with pytest.raises(ValueError, match="visible ASCII"):
        connect(server).call("submit", "m", {}, idempotency_key=key)
    assert server.asked == []


# --- errors ---


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (404, NotFound),
        (409, Conflict),
        (413, InvalidRequest),
        (415, InvalidRequest),
        (422, InvalidRequest),
        (429, RateLimited),
        (500, ServerError),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
        (302, ServerError),
    ],
)
def test_a_refusal_is_an_error_with_all_that_the_server_said(
    connect: Connect, status: int, kind: type[ApiError]
) -> None:
    server = Server(problem(status, "the_code", "the detail", field="input.n", retry_after=7))
    with pytest.raises(kind) as caught:
        connect(server, max_retries=0).call("get", "job_1")
    error = caught.value
    assert type(error) is kind
    assert str(error) == error.message == "the detail"
    assert (error.status, error.code, error.field, error.retry_after) == (status, "the_code", "input.n", 7)


def test_a_refusal_by_a_proxy_is_an_error_too(connect: Connect) -> None:
    server = Server(httpx.Response(502, text="<html>Bad gateway</html>", headers={"Retry-After": "Fri, 01 Jan"}))
    with pytest.raises(Unavailable, match="answered 502") as caught:
        connect(server, max_retries=0).call("get", "job_1")
    assert (caught.value.code, caught.value.retry_after) == ("http_502", None)


@pytest.mark.parametrize("body", ["<html></html>", "[]", '{"id": "job_1"}', '{"id": "job_1", "state": "odd"}'])
def test_an_answer_that_is_not_this_apis_is_a_server_error(connect: Connect, body: str) -> None:
    with pytest.raises(ServerError, match="is this a ktqueue server"):
        connect(Server(httpx.Response(200, text=body))).call("get", "job_1")


def test_a_list_that_is_not_this_apis_is_a_server_error(connect: Connect) -> None:
    with pytest.raises(ServerError, match="is not a list"):
        connect(Server(httpx.Response(200, json={}))).call("models")


@pytest.mark.parametrize("url", ["nonsense", "ftp://host", "http://", "http://host:port", ""])
@pytest.mark.parametrize("kind", [SyncSubject, AsyncSubject])
def test_a_url_that_is_none_is_refused_at_once(kind: Callable[..., Subject], url: str, world: World) -> None:
    with pytest.raises(ValueError, match="URL"):
        kind(Server(), world, url=url)


# --- retries ---


def test_a_lost_answer_to_a_submit_is_asked_for_again_under_the_same_key(connect: Connect, world: World) -> None:
    server = Server(LATE, BROKEN, problem(503, "unavailable"), answer())
    assert connect(server).call("submit", "echo", {"n": 1}).id == "job_1"
    assert len({request.headers["idempotency-key"] for request in server.asked}) == 1
    assert world.sleeps == [0.25, 0.5, 1.0]


def test_two_submits_have_two_keys(connect: Connect) -> None:
    server = Server(answer(), answer())
    client = connect(server)
    client.call("submit", "echo", {"n": 1})
    client.call("submit", "echo", {"n": 1})
    assert len({request.headers["idempotency-key"] for request in server.asked}) == 2


def test_retries_come_to_an_end(connect: Connect) -> None:
    server = Server(*[REFUSED] * 4)
    with pytest.raises(ConnectionFailed, match=r"can't reach http://127\.0\.0\.1:8000.*refused") as caught:
        connect(server).call("get", "job_1")
    assert (caught.value.sent, caught.value.tries) == (False, 4)


def test_the_server_says_when_to_try_again(connect: Connect, world: World) -> None:
    server = Server(problem(429, "queue_full", retry_after=10), answer())
    connect(server).call("submit", "echo", {"n": 1})
    assert world.sleeps == [11.0]


def test_a_server_that_asks_for_too_much_patience_is_reported(connect: Connect, world: World) -> None:
    with pytest.raises(RateLimited):
        connect(Server(problem(429, "queue_full", retry_after=3600))).call("submit", "echo", {"n": 1})
    assert world.sleeps == []


@pytest.mark.parametrize("status", [400, 404, 409, 422, 500])
def test_what_would_be_refused_again_is_not_sent_again(connect: Connect, status: int) -> None:
    server = Server(problem(status, "no"))
    with pytest.raises(ApiError):
        connect(server).call("get", "job_1")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("failure", "tries"),
    [(REFUSED, 2), (429, 2), (BROKEN, 1), (LATE, 1), (503, 1)],
)
def test_what_makes_a_new_job_without_a_key_is_sent_again_only_if_nothing_can_have_come_of_it(
    connect: Connect, failure: Exception | int, tries: int
) -> None:
    server = Server(problem(failure, "busy") if isinstance(failure, int) else failure, answer())
    client = connect(server)
    if tries == 1:
        with pytest.raises(KtqueueClientError):
            client.call("retry", "job_1")
    else:
        client.call("retry", "job_1")
    assert server.lines == ["POST /api/v1/jobs/job_1/retry"] * tries


def test_a_cancel_is_sent_again(connect: Connect) -> None:
    server = Server(BROKEN, answer("cancelled"))
    assert connect(server).call("cancel", "job_1").state is JobState.CANCELLED
    assert server.lines == ["POST /api/v1/jobs/job_1/cancel"] * 2


def test_a_delete_whose_first_answer_was_lost_has_done_its_work(connect: Connect) -> None:
    server = Server(BROKEN, problem(404, "not_found"))
    connect(server).call("delete", "job_1")
    assert server.lines == ["DELETE /api/v1/jobs/job_1"] * 2


def test_a_delete_of_what_never_was_is_an_error(connect: Connect) -> None:
    with pytest.raises(NotFound):
        connect(Server(problem(404, "not_found"))).call("delete", "job_1")


def test_a_delete_that_is_answered_returns_nothing(connect: Connect) -> None:
    assert connect(Server(httpx.Response(204))).call("delete", "job_1") is None


def test_an_answer_that_breaks_off_is_asked_for_again(connect: Connect) -> None:
    server = Server(httpx.Response(200, stream=Chunks(b'{"id": ', BROKEN)), answer())
    assert connect(server).call("get", "job_1").id == "job_1"


def test_an_id_can_not_lead_to_another_address(connect: Connect) -> None:
    server = Server(answer())
    connect(server).call("get", "../models?x#y")
    assert server.lines == ["GET /api/v1/jobs/..%2Fmodels%3Fx%23y"]


# --- bulk ---


def accept(request: httpx.Request) -> httpx.Response:
    """Accept every line of a bulk submit but those whose input says otherwise."""
    answers = []
    for number, line in enumerate(request.content.splitlines(), 1):
        job = json.loads(line)
        error = {"code": "unknown_model", "message": "no such model", "field": "model", "allowed": ["echo"]}
        said = {"error": error} if job["model"] != "echo" else {"id": f"job_{job['input']['n']}"}
        answers.append(json.dumps({"line": number, **said}) + "\n")
    body = "".join(answers).encode()
    return httpx.Response(200, stream=Chunks(body[:7], body[7:]))


def test_many_jobs_go_in_several_bodies_and_each_is_told_in_order(connect: Connect) -> None:
    server = Server(handler=accept)
    jobs = ({"model": "echo", "input": {"n": n}, "priority": 7} for n in range(2_500))
    told = list(connect(server).items("submit_many", jobs))
    assert [len(request.content.splitlines()) for request in server.asked] == [1000, 1000, 500]
    assert {request.headers["content-type"] for request in server.asked} == {"application/x-ndjson"}
    assert [(line.line, line.id) for line in told] == [(n + 1, f"job_{n}") for n in range(2_500)]


def test_jobs_are_read_no_further_than_they_are_sent(connect: Connect) -> None:
    taken = []

    def jobs() -> Iterator[dict[str, Any]]:
        for n in range(10_000):
            taken.append(n)
            yield {"model": "echo", "input": {"n": n}}

    told = connect(Server(handler=accept)).items("submit_many", jobs())
    assert next(told).id == "job_0"
    assert len(taken) == 1_001
    told.close()  # type: ignore[attr-defined]


def test_a_bad_job_is_told_and_stops_no_other(connect: Connect) -> None:
    jobs: list[Any] = [
        '{"model": "echo", "input": {"n": 1}}\n',
        {"model": "nope", "input": "x"},
        {"model": "echo", "input": {"n": 3}},
    ]
    jobs.insert(1, " \n")
    first, second, third = connect(Server(handler=accept)).items("submit_many", jobs, progress=True)
    assert (first.id, third.id) == ("job_1", "job_3")
    assert [first.line, second.line, third.line] == [1, 3, 4]
    assert second.id is None
    assert (second.error.code, second.error.field) == ("unknown_model", "model")


def test_no_jobs_are_no_request(connect: Connect) -> None:
    server = Server()
    assert list(connect(server).items("submit_many", [])) == []
    assert server.asked == []


def test_a_bulk_submit_that_broke_off_is_not_sent_again_and_what_was_told_was_told(connect: Connect) -> None:
    server = Server(httpx.Response(200, stream=Chunks(b'{"line": 1, "id": "job_0"}\n{"li', BROKEN)))
    told = connect(server).items("submit_many", [{"model": "echo", "input": {}}] * 3)
    assert next(told).id == "job_0"
    with pytest.raises(ConnectionFailed) as caught:
        next(told)
    assert caught.value.sent
    assert len(server.asked) == 1


def test_too_few_answers_to_a_bulk_submit_are_noticed(connect: Connect) -> None:
    server = Server(httpx.Response(200, text='{"line": 1, "id": "job_0"}\n'))
    with pytest.raises(ConnectionFailed, match="1 of 2 jobs were not answered"):
        list(connect(server).items("submit_many", [{"model": "echo", "input": {}}] * 2))


def test_a_bulk_submit_that_was_turned_away_is_sent_again_whole(connect: Connect) -> None:
    full = problem(429, "queue_full", retry_after=1)
    server = Server(REFUSED, full, accept(httpx.Request("POST", "/", content=b'{"model":"echo","input":{"n":0}}')))
    told = list(connect(server).items("submit_many", [{"model": "echo", "input": {"n": 0}}]))
    assert [line.id for line in told] == ["job_0"]
    assert len({request.content for request in server.asked}) == 1


# --- looking ---


def test_a_list_goes_from_page_to_page(connect: Connect) -> None:
    server = Server(listing([job_json("job_3"), job_json("job_2")], "c&1"), listing([job_json("job_1")]))
    jobs = connect(server).items(
        "list",
        states=["queued", "running"],
        model="echo",
        metadata={"team": "a b"},
        created_from=datetime(2026, 1, 1, tzinfo=UTC),
        created_to=datetime(2026, 1, 2, tzinfo=UTC),
    )
    assert [job.id for job in jobs] == ["job_3", "job_2", "job_1"]
    assert server.asked[0].url.params.multi_items() == [
        ("state", "queued"),
        ("state", "running"),
        ("metadata.team", "a b"),
        ("model", "echo"),
        ("created_from", "2026-01-01T00:00:00Z"),
        ("created_to", "2026-01-02T00:00:00Z"),
        ("limit", "100"),
    ]
    assert server.asked[1].url.params["cursor"] == "c&1"


def test_a_page_is_fetched_only_when_it_is_needed(connect: Connect) -> None:
    server = Server(listing([job_json("job_2"), job_json("job_1")], "more"))
    jobs = connect(server).items("list")
    assert [next(jobs).id, next(jobs).id] == ["job_2", "job_1"]
    assert len(server.asked) == 1
