"""From the finish of a job to its webhook received, one echo job at a time on services that are otherwise idle.

Both send to the same receiver. When a job finished, its row said; when its webhook was here, the receiver's clock,
which is the same. The plain service's task sends the message of the webhook when it has committed the result.
"""

from __future__ import annotations

import json
import time
from contextlib import closing

from benchmarks import up
from benchmarks.arrivals import Receiver, receiver
from benchmarks.figures import Figure, at_most, compared
from benchmarks.idle import INPUT, PAUSE_S, POLL_S, WARM_UP, percentiles
from benchmarks.load import Connection, post


def measure(*, quick: bool) -> list[Figure]:
    """Milliseconds, by percentile over all rounds."""
    rounds, jobs = (1, 50) if quick else (3, 100)
    ours, theirs = [], []
    with receiver(1) as receives, up.ktqueue() as our_service, up.plain() as their_service:
        for _ in range(rounds):
            ours += _times(our_service, receives, jobs)
            theirs += _times(their_service, receives, jobs)
    what = "finish of an idle echo job to its webhook received, ms"
    (our_50, our_90, our_99), (their_50, their_90, their_99) = percentiles(ours), percentiles(theirs)
    return [
        at_most(f"{what}: p50", [our_50], [their_50], 50),
        compared("… p90", [our_90], [their_90]),
        compared("… p99", [our_99], [their_99]),
    ]


def _times(service: up.Service, receives: Receiver, jobs: int) -> list[float]:
    """Milliseconds of each of so many jobs, after some to warm up."""
    with closing(Connection(service.port)) as connection:
        return [_one(service, connection, receives) for _ in range(WARM_UP + jobs)][WARM_UP:]


def _one(service: up.Service, connection: Connection, receives: Receiver) -> float:
    body = {"model": "echo", "input": INPUT, "webhook": {"url": receives.urls[0]}}
    time.sleep(PAUSE_S)
    status, answer = connection.ask(post(service.path, json.dumps(body).encode()))
    if status != 202:
        raise RuntimeError(f"{service.name}: {status}, {answer!r}")
    (arrival,) = receives.take(1, every_s=POLL_S)
    if arrival.event["data"]["result"] != INPUT:
        raise RuntimeError(f"{service.name}: {arrival.event}")
    return arrival.age_ms
