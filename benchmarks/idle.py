"""From POST to finished, one echo job at a time, while everything else is idle; both services are up all the time.

We poll as our API wants to be polled: one GET with ?wait, answered when the job ends. The plain service has nothing
of the kind, so it is asked every 5 ms.
"""

from __future__ import annotations

import json
import time
from contextlib import closing
from statistics import quantiles
from typing import Any

from benchmarks import up
from benchmarks.figures import Figure, at_most, compared
from benchmarks.load import Connection, get, post

POLL_S = 0.005
PAUSE_S = 0.02
"""Between two jobs, so that each finds the service idle."""
WARM_UP = 20
STUCK_S = 30.0
INPUT = {"text": "a stitch in time saves nine"}


def measure(*, quick: bool) -> list[Figure]:
    """Milliseconds, by percentile over all rounds."""
    rounds, jobs = (1, 50) if quick else (3, 100)
    ours, theirs = [], []
    with up.ktqueue() as our_service, up.plain() as their_service:
        for _ in range(rounds):
            ours += times(our_service, jobs)
            theirs += times(their_service, jobs)
    what = "idle echo job, POST to finished, ms"
    (our_50, our_90, our_99), (their_50, their_90, their_99) = percentiles(ours), percentiles(theirs)
    return [
        at_most(f"{what}: p50", [our_50], [their_50], 25),
        compared(f"{what}: p90", [our_90], [their_90]),
        compared(f"{what}: p99", [our_99], [their_99]),
    ]


def times(service: up.Service, jobs: int) -> list[float]:
    """Milliseconds of each of so many jobs, after some to warm up."""
    with closing(Connection(service.port)) as connection:
        return [_one(service, connection) for _ in range(WARM_UP + jobs)][WARM_UP:]


def _one(service: up.Service, connection: Connection) -> float:
    request = post(service.path, json.dumps({"model": "echo", "input": INPUT}).encode())
    time.sleep(PAUSE_S)
    began = time.perf_counter()
    job = _ask(connection, request)
    poll = get(f"{service.path}/{job['id']}{service.wait}")
    while job["state"] in {"queued", "running"}:
        if time.perf_counter() - began > STUCK_S:
            raise RuntimeError(f"{service.name}: stuck at {job}")
        if not service.wait:
            time.sleep(POLL_S)
        job = _ask(connection, poll)
    took = time.perf_counter() - began
    if job["state"] != "succeeded" or job["result"] != INPUT:
        raise RuntimeError(f"{service.name}: {job}")
    return took * 1000


def _ask(connection: Connection, request: bytes) -> dict[str, Any]:
    status, body = connection.ask(request)
    if status not in {200, 202}:
        raise RuntimeError(f"{status}: {body!r}")
    job: dict[str, Any] = json.loads(body)
    return job


def percentiles(values: list[float]) -> tuple[float, float, float]:
    """The 50th, 90th and 99th."""
    cuts = quantiles(values, n=100)
    return cuts[49], cuts[89], cuts[98]
