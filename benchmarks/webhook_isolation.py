"""What a receiver that hangs and one that fails cost the others: finish to received, with them and without.

Two services of ours with 20 endpoints each, in turns, under the same steady load. All endpoints of one are well; of the
other one answers nothing until the sender gives up, and one answers 500. Each turn of the latter begins with
circuits closed, so that the sender finds out anew. The 18 others are compared, which are the same receivers.
"""

from __future__ import annotations

import http
import json
import time
from collections.abc import Sequence
from contextlib import closing

from benchmarks import up
from benchmarks.arrivals import Receiver, receiver
from benchmarks.figures import Figure, at_most_times, compared
from benchmarks.idle import INPUT, percentiles
from benchmarks.load import Connection, post, request
from benchmarks.receiver import FAILS, HANGS

ENDPOINTS = 20
TIMEOUT_S = 5.0
"""Of a request, a third of what it is by default, so that a turn sees several."""
JOBS_A_SECOND = 10
WARM_UP = 20
PATH = "/api/v1/webhook-endpoints"


def measure(*, quick: bool) -> list[Figure]:
    """Milliseconds; "other" is the service whose receivers are all well."""
    rounds, seconds = (1, 6) if quick else (2, 30)
    shorter = {"webhook_timeout_seconds": TIMEOUT_S}
    with receiver(ENDPOINTS) as receives, up.ktqueue(**shorter) as well, up.ktqueue(**shorter) as ill:
        hanging, failing, *others = receives.urls
        _register(well, receives.urls)
        ids = _register(ill, [hanging + HANGS[1:], failing + FAILS[1:], *others])
        turns = []
        for _ in range(rounds):
            without = _turn(well, receives, seconds, told=ENDPOINTS)
            _forgive(ill, ids)
            turns.append((_turn(ill, receives, seconds, told=ENDPOINTS - 2), without))
    with_50, with_99, without_50, without_99 = zip(*((*ours, *other) for ours, other in turns), strict=True)
    what = "finish to received while 1 of 20 hangs, 1 answers 500 (other: none), ms"
    return [
        compared(f"{what}: p50", with_50, without_50),
        at_most_times("… p99", with_99, without_99, 1.5),
    ]


def _register(service: up.Service, urls: Sequence[str]) -> list[str]:
    """Make endpoints of them; their ids."""
    return [_ask(service, "POST", PATH, {"url": url})["id"] for url in urls]


def _forgive(service: up.Service, ids: Sequence[str]) -> None:
    """Close the circuits of its endpoints."""
    for endpoint in ids:
        _ask(service, "PATCH", f"{PATH}/{endpoint}", {"enabled": True})


def _ask(service: up.Service, method: str, path: str, body: object) -> dict[str, str]:
    with closing(Connection(service.port)) as connection:
        status, answer = connection.ask(request(method, path, json.dumps(body).encode()))
    if status not in {http.HTTPStatus.OK, http.HTTPStatus.CREATED}:
        raise RuntimeError(f"{service.name}: {status}, {answer!r}")
    told: dict[str, str] = json.loads(answer)
    return told


def _turn(service: up.Service, receives: Receiver, seconds: int, *, told: int) -> tuple[float, float]:
    """The p50 and p99 of the receivers that are well in both services; ``told`` is how many take each event."""
    _submit(service, WARM_UP)
    receives.take(WARM_UP * told)
    jobs = seconds * JOBS_A_SECOND
    _submit(service, jobs)
    arrivals = receives.take(jobs * told)
    ages = [arrival.age_ms for arrival in arrivals if arrival.port in receives.ports[2:]]
    p50, _, p99 = percentiles(ages)
    return p50, p99


def _submit(service: up.Service, jobs: int) -> None:
    """So many, at the rate of `JOBS_A_SECOND`, however long each takes."""
    asked = post(service.path, json.dumps({"model": "echo", "input": INPUT}).encode())
    began = time.monotonic()
    with closing(Connection(service.port)) as connection:
        for number in range(jobs):
            time.sleep(max(0.0, began + number / JOBS_A_SECOND - time.monotonic()))
            status, answer = connection.ask(asked)
            if status != http.HTTPStatus.ACCEPTED:
                raise RuntimeError(f"{service.name}: {status}, {answer!r}")
