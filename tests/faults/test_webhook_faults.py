"""Webhooks arrive, whoever is killed on their way: in every call that leads there, and in the middle of a burst."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support.mailbox import Arrival, Mailbox, mailbox
from tests.support.stack import ECHO_ONLY, Stack, alive, running, until

pytestmark = pytest.mark.timeout(240)

CALLS = ["outbox.due_targets", "outbox.claim", "outbox.settle", "store.finish", "bell.send"]
POINTS = [f"{call}.{moment}" for call in CALLS for moment in ("before", "after")]
ALL, THE_END = ["job.queued", "job.started", "job.succeeded"], ["job.succeeded"]
LATER = {"queued": {"queued", "running", "succeeded"}, "running": {"running", "succeeded"}, "succeeded": {"succeeded"}}
"""In which states a job may be that was told to be in one."""
MOMENTS = 1_000_000
"""Of a claim, in the ids of events."""
SENDER = "-m worker deliver"
BURST = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where failpoints are armed."""
    return tmp_path_factory.mktemp("failpoints")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Stack]:
    given = {"KTQ_FAILPOINTS": str(folder), "KTQ_WEBHOOK_ALLOW": "127.0.0.1", "KTQ_GRACE_SECONDS": "5"}
    with running(tmp_path_factory.mktemp("stack"), models=ECHO_ONLY, **given) as started:
        yield started


@pytest.fixture(scope="module")
def post(stack: Stack) -> Iterator[Mailbox]:
    with mailbox() as listening:
        listening.trust(stack.http)
        yield listening


@pytest.fixture
def endpoint(stack: Stack, post: Mailbox) -> Iterator[Callable[..., str]]:
    """Register a path; what was registered is deleted afterwards."""
    made: list[str] = []

    def register(path: str, events: list[str] | None = None) -> str:
        made.append(post.register(stack.http, path, events))
        return post.url(path)

    yield register
    for each in made:
        assert stack.http.delete(f"/api/v1/webhook-endpoints/{each}").status_code == 204


def asked(stack: Stack, path: str) -> dict[str, Any] | None:
    """What the API says; None if it is not there just now."""
    try:
        answer = stack.http.get(path)
    except httpx.TransportError:
        return None
    found: dict[str, Any] = answer.json()
    return found if answer.status_code == 200 else None


def submitted(stack: Stack, key: str, url: str, events: list[str]) -> dict[str, Any] | None:
    """The one job of ``key``; None if nobody answered, and so nothing is known."""
    job = {"model": "echo", "input": {"key": key}, "webhook": {"url": url, "events": events}}
    try:
        answer = stack.http.post("/api/v1/jobs", json=job, headers={"Idempotency-Key": key})
    except httpx.TransportError:
        return None
    assert answer.status_code in {202, 503}, answer.text
    found: dict[str, Any] = answer.json()
    return found if answer.status_code == 202 else None


def identity(job_id: str, moment: int) -> str:
    return f"evt_{job_id.removeprefix('job_')}_{moment}"


def expected(job: dict[str, Any], claims: int, events: list[str]) -> list[str]:
    """The ids of a job's events, in order."""
    moments = [0, *(claim * MOMENTS for claim in range(1, claims + 1))] if events == ALL else []
    return [identity(job["id"], moment) for moment in (*moments, claims * MOMENTS + 1_000)]


@pytest.mark.parametrize(
    ("point", "events"),
    [(point, ALL) for point in POINTS] + [(point, THE_END) for point in POINTS if point.startswith("bell")],
)
def test_a_process_that_is_killed_there_costs_no_event(
    stack: Stack, post: Mailbox, folder: Path, endpoint: Callable[..., str], *, point: str, events: list[str]
) -> None:
    key = f"{point}-{len(events)}"
    own, registered = f"/own/{point}/{len(events)}", f"/registered/{point}/{len(events)}"
    seen: list[tuple[Arrival, dict[str, Any]]] = []

    def look(arrival: Arrival) -> int:
        """What the API says of the job at the moment of its arrival."""
        path = f"/api/v1/jobs/{arrival.event['data']['id']}"
        seen.append((arrival, until(lambda: asked(stack, path), "an answer about what has arrived")))
        return 204

    post.answers |= {own: look, registered: look}
    endpoint(registered, events)
    armed = folder / point
    armed.touch()
    job = until(lambda: submitted(stack, key, post.url(own), events), "an answer to the submit")
    until(lambda: not armed.exists(), f"a process that is killed at {point}; the log:\n{stack.said()[-2000:]}")
    assert stack.finished(job["id"])["state"] == "succeeded"
    claims = len(until(lambda: asked(stack, f"/api/v1/jobs/{job['id']}/attempts"), "its attempts")["data"])
    assert claims <= 2

    ids = expected(job, claims, events)
    for path in (own, registered):
        all_taken(post, path, set(ids))
        assert list(dict.fromkeys(each.id for each in post.at(path))) == ids
    arrivals = post.at(own) + post.at(registered)
    assert [each.flaw for each in arrivals if each.flaw] == []
    assert len({(each.id, each.body) for each in arrivals}) == len(ids)
    for arrival, found in seen:
        told = arrival.event["data"]
        # Who was running may wait again after a crash; then its attempt is told.
        assert found["state"] in LATER[told["state"]] or found["attempt"] <= told["attempt"] < claims, (told, found)
        if told["state"] == "succeeded":
            assert found == told


def test_a_sender_that_is_killed_in_a_burst_delays_nothing_but_what_hangs(
    stack: Stack, post: Mailbox, endpoint: Callable[..., str]
) -> None:
    over = threading.Event()
    failing = iter([500] * 3)

    def hang(_: Arrival) -> int:
        over.wait(60)
        return 204

    post.answers |= {
        "/mending": lambda _: next(failing, 204),
        "/hanging": hang,
    }
    for path in ("/well", "/mending", "/hanging"):
        endpoint(path)
    try:
        ids = stack.bulk([{"model": "echo", "input": {"n": number}} for number in range(BURST)])
        events = {identity(job_id, MOMENTS + 1_000) for job_id in ids}
        for share in (8, 2):
            arrived(post, "/well", BURST // share)
            sender(stack).kill()
        for path in ("/well", "/mending"):
            all_taken(post, path, events)
    finally:
        over.set()
    arrivals = post.at("/well") + post.at("/mending") + post.at("/hanging")
    assert [each.flaw for each in arrivals if each.flaw] == []
    assert len({(each.id, each.body) for each in arrivals}) == BURST
    assert [each.id for each in post.at("/mending") if not each.taken], "it did fail"


def test_a_sender_that_is_told_to_stop_takes_its_answers_along(
    stack: Stack, post: Mailbox, endpoint: Callable[..., str]
) -> None:
    def slow(_: Arrival) -> int:
        time.sleep(0.2)
        return 204

    post.answers |= {"/slow": slow}
    endpoint("/slow")
    ids = stack.bulk([{"model": "echo", "input": {"n": number}} for number in range(BURST)])
    arrived(post, "/slow", BURST // 8)
    parent = sender(stack, parent=True)
    parent.send_signal(signal.SIGTERM)
    until(lambda: not alive(parent), "its end")
    early = len(post.at("/slow"))
    events = {identity(job_id, MOMENTS + 1_000) for job_id in ids}
    all_taken(post, "/slow", events)

    assert Counter(each.id for each in post.at("/slow")) == dict.fromkeys(events, 1)
    assert early < BURST, "it stopped in the middle"


def arrived(post: Mailbox, path: str, events: int) -> None:
    until(lambda: len(post.at(path)) >= events, f"{events} events at {path}")


def all_taken(post: Mailbox, path: str, ids: set[str]) -> None:
    until(lambda: ids <= {each.id for each in post.at(path) if each.taken}, f"all of {len(ids)} events at {path}")


def sender(stack: Stack, *, parent: bool = False) -> psutil.Process:
    """The child that sends, or its parent."""

    def find() -> psutil.Process | None:
        there = [each for each in stack.find(SENDER) if alive(each)]
        supervised = [each for each in there if each.ppid() == stack.process.pid]
        wanted = supervised if parent else [each for each in there if each not in supervised]
        return max(wanted, key=lambda each: each.create_time(), default=None)

    found: psutil.Process = until(find, "a sender")
    return found
