"""How both clients wait: for one job, for many, and for its events."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from ktqueue.client import (
    ConnectionFailed,
    Job,
    JobCancelled,
    JobExpired,
    JobFailed,
    NotFound,
    ServerError,
    WaitTimeout,
)
from ktqueue.job import JobState
from tests.support.client import (
    BROKEN,
    LATE,
    REFUSED,
    Chunks,
    Connect,
    Server,
    World,
    answer,
    job_json,
    listing,
    problem,
)

# --- waiting ---


def test_a_wait_asks_until_the_job_has_ended(connect: Connect, world: World) -> None:
    def hold(request: httpx.Request) -> httpx.Response:
        world.now += float(request.url.params["wait"])
        return answer("succeeded" if world.now >= 1090.0 else "running")

    server = Server(handler=hold)
    assert connect(server).call("wait", "job_1").state is JobState.SUCCEEDED
    assert server.lines == ["GET /api/v1/jobs/job_1?wait=30"] * 3
    assert server.asked[0].extensions["timeout"]["read"] == 60.0
    assert set(world.sleeps) <= {0.0}


def test_a_wait_that_the_server_would_not_hold_becomes_polling(connect: Connect, world: World) -> None:
    hinted = httpx.Response(200, json=job_json(state="queued"), headers={"Retry-After": "2"})
    server = Server(answer(), answer(), hinted, answer("failed"))
    assert connect(server).call("wait", "job_1").state is JobState.FAILED
    assert world.sleeps == pytest.approx([0.05, 0.075, 2.0])


def test_a_wait_ends_with_its_time(connect: Connect, world: World) -> None:
    def hold(request: httpx.Request) -> httpx.Response:
        world.now += float(request.url.params["wait"])
        return answer("running")

    server = Server(handler=hold)
    with pytest.raises(WaitTimeout, match="job_1 did not finish in time") as caught:
        connect(server).call("wait", "job_1", timeout=40)
    assert caught.value.pending == ["job_1"]
    assert isinstance(caught.value, TimeoutError)
    assert [request.url.params["wait"] for request in server.asked] == ["30", "10"]


def test_a_wait_without_time_looks_once(connect: Connect) -> None:
    server = Server(answer("succeeded"))
    assert connect(server).call("wait", "job_1", timeout=0).state is JobState.SUCCEEDED
    assert server.lines == ["GET /api/v1/jobs/job_1?wait=0"]


def test_a_result_is_what_the_job_made(connect: Connect) -> None:
    assert connect(Server(answer("succeeded"))).call("result", "job_1") == {"n": 1}


@pytest.mark.parametrize(
    ("state", "kind", "said"),
    [
        ("failed", JobFailed, r"job_1 is failed: it broke \(boom\)"),
        ("cancelled", JobCancelled, "job_1 is cancelled"),
        ("expired", JobExpired, "job_1 is expired"),
    ],
)
def test_a_job_without_result_is_an_error_that_carries_it(
    connect: Connect, state: str, kind: type[JobFailed], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        connect(Server(answer(state))).call("result", "job_1")
    assert caught.value.job.state == state


class Farm:
    """A server of jobs that end at given moments; answers `as_completed`'s requests."""

    def __init__(self, world: World, ends: dict[str, tuple[float, str]], page: int = 100) -> None:
        self._world = world
        self._page = page
        self.ends = ends

    def __call__(self, request: httpx.Request) -> httpx.Response:
        ids = request.url.params.get_list("id")
        assert len(ids) <= 100
        jobs = [job_json(job_id, self._state(job_id)) for job_id in ids if job_id in self.ends]
        states = set(request.url.params.get_list("state"))
        found = [job for job in jobs if not states or job["state"] in states]
        start = int(request.url.params.get("cursor", "0"))
        more = start + self._page < len(found)
        return listing(found[start : start + self._page], str(start + self._page) if more else None)

    def _state(self, job_id: str) -> str:
        at, state = self.ends[job_id]
        return state if self._world.now >= at else "running"


def test_jobs_come_as_they_end_however_they_end(connect: Connect, world: World) -> None:
    ends = {"job_a": (1003.0, "succeeded"), "job_b": (1001.0, "failed"), "job_c": (0.0, "cancelled")}
    server = Server(handler=Farm(world, ends, page=2))
    jobs = connect(server).items("as_completed", ["job_a", Job.model_validate(job_json("job_b")), "job_c", "job_a"])
    assert [(job.id, job.state) for job in jobs] == [
        ("job_c", "cancelled"),
        ("job_b", "failed"),
        ("job_a", "succeeded"),
    ]


def test_no_jobs_are_complete_at_once(connect: Connect) -> None:
    assert list(connect(Server()).items("as_completed", [])) == []


def test_many_jobs_take_few_requests(connect: Connect, world: World) -> None:
    """2,000 jobs, 100 of them done each second: 20 requests a round at first, and a round a second."""
    ends = {f"job_{n}": (world.now + n / 100, "succeeded") for n in range(2_000)}
    server = Server(handler=Farm(world, ends))
    assert len(list(connect(server).items("as_completed", list(ends)))) == 2_000
    assert len(server.asked) < 600
    assert world.now < 1021.0


def test_rounds_come_less_often_the_less_happens(connect: Connect, world: World) -> None:
    server = Server(handler=Farm(world, {"job_a": (1600.0, "succeeded")}))
    assert [job.id for job in connect(server).items("as_completed", ["job_a"])] == ["job_a"]
    assert world.sleeps == sorted(world.sleeps)
    assert max(world.sleeps) == 5.0


def test_a_job_that_was_never_there_is_an_error_at_once(connect: Connect, world: World) -> None:
    server = Server(handler=Farm(world, {"job_a": (2000.0, "succeeded")}))
    with pytest.raises(NotFound, match="there is no job job_z"):
        list(connect(server).items("as_completed", ["job_a", "job_z"]))


def test_a_job_that_is_deleted_meanwhile_is_an_error(connect: Connect, world: World) -> None:
    farm = Farm(world, {"job_a": (0.0, "succeeded"), "job_b": (5000.0, "succeeded")})
    jobs = connect(Server(handler=farm)).items("as_completed", ["job_a", "job_b"])
    assert next(jobs).id == "job_a"
    del farm.ends["job_b"]
    with pytest.raises(NotFound):
        next(jobs)


def test_completion_has_a_time_limit(connect: Connect, world: World) -> None:
    ends = {"job_a": (0.0, "succeeded"), "job_b": (2000.0, "succeeded"), "job_c": (2000.0, "succeeded")}
    jobs = connect(Server(handler=Farm(world, ends))).items("as_completed", list(ends), timeout=30)
    assert next(jobs).id == "job_a"
    with pytest.raises(WaitTimeout, match="2 jobs, job_b among them, did not finish in time") as caught:
        next(jobs)
    assert caught.value.pending == ["job_b", "job_c"]
    assert world.now == pytest.approx(1030.0)


# --- streaming ---


def event(event_id: str, kind: str, **data: Any) -> bytes:
    return f"id: {event_id}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()


QUEUED, RUNNING = event("0-1", "state", state="queued"), event("1-0", "state", state="running")
HEL, LO = event("1-3", "token", text="Hel", offset=0), event("1-5", "token", text="lo", offset=3)
DONE = event("1-4294967295", "state", state="succeeded")


def events(*chunks: bytes | Exception) -> httpx.Response:
    return httpx.Response(200, stream=Chunks(*chunks), headers={"Content-Type": "text/event-stream"})


def test_a_stream_tells_every_event_up_to_the_last(connect: Connect) -> None:
    server = Server(events(QUEUED, b": still here\n\n", RUNNING + HEL[:9], HEL[9:], LO, DONE, b"id: 9"))
    told = list(connect(server).items("stream", "job_1"))
    assert [event.id for event in told] == ["0-1", "1-0", "1-3", "1-5", "1-4294967295"]
    assert "".join(event.data["text"] for event in told if event.type == "token") == "Hello"
    assert told[-1].state is JobState.SUCCEEDED
    assert told[-1].last
    assert server.lines == ["GET /api/v1/jobs/job_1/events"]
    assert "last-event-id" not in server.asked[0].headers


@pytest.mark.parametrize("end", [[], [BROKEN], [LATE]])
def test_a_stream_goes_on_where_it_was_lost(connect: Connect, end: list[Exception]) -> None:
    server = Server(
        events(QUEUED, RUNNING, HEL, LO[:-1], *end), REFUSED, problem(503, "too_many_readers"), events(LO, DONE)
    )
    told = list(connect(server).items("stream", "job_1"))
    assert [event.id for event in told] == ["0-1", "1-0", "1-3", "1-5", "1-4294967295"]
    assert [request.headers.get("last-event-id") for request in server.asked] == [None, "1-3", "1-3", "1-3"]


def test_a_server_that_is_alive_but_drops_its_streams_is_followed_for_ever(connect: Connect) -> None:
    server = Server(*[events(b":\n\n") for _ in range(20)], events(QUEUED, DONE))
    assert len(list(connect(server).items("stream", "job_1"))) == 2


def test_streams_without_a_word_are_given_up(connect: Connect) -> None:
    server = Server(*[events() for _ in range(4)])
    with pytest.raises(ConnectionFailed, match="the events of job_1 ended before the job did"):
        list(connect(server).items("stream", "job_1"))
    assert len(server.asked) == 4


def test_a_stream_that_is_left_is_closed(connect: Connect) -> None:
    answered = events(QUEUED, RUNNING, DONE)
    told = connect(Server(answered)).items("stream", "job_1")
    assert next(told).id == "0-1"
    told.close()  # type: ignore[attr-defined]
    assert isinstance(answered.stream, Chunks) or answered.is_closed
    assert answered.is_closed


def test_a_stream_of_no_job_is_an_error(connect: Connect) -> None:
    with pytest.raises(NotFound):
        list(connect(Server(problem(404, "not_found"))).items("stream", "job_1"))


@pytest.mark.parametrize("data", [b"data: nonsense\n\n", b"data: []\n\n", b"data: \xff\n\n"])
def test_an_event_that_is_not_this_apis_is_a_server_error(connect: Connect, data: bytes) -> None:
    with pytest.raises(ServerError, match="is this a ktqueue server"):
        list(connect(Server(events(data))).items("stream", "job_1"))
