"""Jobs accepted per second in one bulk submit: 50,000 lines of NDJSON in, as many lines out; no worker runs."""

from __future__ import annotations

import http.client
import json
import time

from benchmarks.figures import Figure, at_least
from benchmarks.ours import Ours

PATH = "/api/v1/jobs:bulk"
NDJSON = "application/x-ndjson"
TIMEOUT_S = 120.0


def measure(*, quick: bool) -> list[Figure]:
    """Jobs per second from the first byte sent to the last byte received."""
    rounds, jobs = (1, 5_000) if quick else (3, 50_000)
    with Ours.open() as ours, ours.serving() as port:
        rates = [_rate(port, jobs) for _ in range(rounds)]
        if ours.tally().states != {"queued": rounds * jobs}:
            raise RuntimeError(f"{rounds * jobs} jobs were accepted, and stored: {ours.tally()}")
    return [at_least(f"bulk submit of {jobs:,}, jobs/s", rates, 5_000)]


def _rate(port: int, jobs: int) -> float:
    body = b"".join(b'{"model": "echo", "input": {"n": %d}}\n' % number for number in range(jobs))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    began = time.perf_counter()
    connection.request("POST", PATH, body, {"Content-Type": NDJSON})
    response = connection.getresponse()
    lines = response.read().splitlines()
    took = time.perf_counter() - began
    connection.close()
    ids = {answer["id"] for answer in map(json.loads, lines) if "id" in answer}
    if response.status != http.HTTPStatus.OK or len(ids) != jobs:
        raise RuntimeError(f"{jobs} lines: {response.status}, {len(ids)} ids; the last: {lines[-1:]!r}")
    return jobs / took
