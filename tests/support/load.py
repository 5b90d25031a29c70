"""Clients that submit as long as a test wants them to, and remember every answer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from threading import Event
from typing import Any

import httpx

from tests.support.stack import Stack, until

A_PAGE = 50


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a submit. ``took_s`` is how long it took, ``at`` when it came (monotonic seconds)."""

    at: float
    took_s: float
    status: int
    retry_after: str | None


@dataclass
class Load:
    """What the clients saw. ``accepted`` is each job's input by its id."""

    answers: list[Answer] = field(default_factory=list)
    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)

    def refused(self) -> list[Answer]:
        """Every answer that was no 202."""
        return [answer for answer in self.answers if answer.status != 202]

    def wait(self, *, accepted: int = 0, refused: int = 0) -> None:
        """Until so many more were."""
        enough, refusals = len(self.accepted) + accepted, len(self.refused()) + refused
        until(
            lambda: len(self.accepted) >= enough and len(self.refused()) >= refusals,
            f"{accepted} more jobs that are accepted, {refused} more that are refused",
        )


@contextmanager
def load(stack: Stack, *, clients: int = 2, pause_s: float = 0.02, padding: str = "", **fields: Any) -> Iterator[Load]:
    """Submit from so many clients while the block runs. A connection that breaks fails the test."""
    seen, stop, numbers = Load(), Event(), itertools.count()

    def client() -> None:
        with httpx.Client(base_url=stack.url, timeout=60.0) as http:
            while not stop.wait(pause_s):
                _submit(http, seen, {"number": next(numbers), "padding": padding}, fields)

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client) for _ in range(clients)]
        try:
            yield seen
        finally:
            stop.set()
        for each in running:
            each.result()


def _submit(http: httpx.Client, seen: Load, job_input: dict[str, Any], fields: Mapping[str, Any]) -> None:
    began = time.monotonic()
    answer = http.post("/api/v1/jobs", json={"model": "echo", "input": job_input, **fields})
    now = time.monotonic()
    if answer.status_code == 202:
        seen.accepted[answer.json()["id"]] = job_input
    seen.answers.append(Answer(now, now - began, answer.status_code, answer.headers.get("Retry-After")))


def every_job_succeeds(stack: Stack, accepted: Mapping[str, Mapping[str, Any]]) -> None:
    """Every accepted job has a row, and ends with the result that its input demands."""
    known = list(accepted)
    for at in range(0, len(known), A_PAGE):
        ids = known[at : at + A_PAGE]
        jobs = until(partial(_ended, stack, ids), f"the end of {len(ids)} jobs:\n{stack.said()[-3000:]}")
        assert {job["id"]: (job["state"], job["result"]) for job in jobs} == {
            job_id: ("succeeded", accepted[job_id]) for job_id in ids
        }


def _ended(stack: Stack, ids: Sequence[str]) -> list[dict[str, Any]] | None:
    answer = stack.http.get("/api/v1/jobs", params={"id": ids, "limit": len(ids)})
    assert answer.status_code == 200, answer.text
    jobs: list[dict[str, Any]] = answer.json()["data"]
    assert len(jobs) == len(ids), "accepted, and there is no row"
    return jobs if all(job["state"] not in {"queued", "running"} for job in jobs) else None


def seconds_to_flow(stack: Stack, since: float) -> float:
    """From ``since`` (monotonic) until a job has gone all the way that was submitted, as soon as one is taken."""
    answer = until(lambda: _taken(stack), "a submit that is accepted")
    path = answer.json()["links"]["self"]
    until(lambda: stack.http.get(path).json().get("state") == "succeeded", f"a job's end:\n{stack.said()[-3000:]}")
    return time.monotonic() - since


def _taken(stack: Stack) -> httpx.Response | None:
    answer = stack.http.post("/api/v1/jobs", json={"model": "echo", "input": {}})
    return answer if answer.status_code == 202 else None
