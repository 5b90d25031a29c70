"""Jobs accepted per second over HTTP, one POST each, over 16 connections kept alive; no worker runs.

Both APIs are up all the time and are asked in short turns, so what slows one slows the other.
"""

from __future__ import annotations

from benchmarks.figures import Figure, at_least_times, compared
from benchmarks.load import Load, keep_busy, post
from benchmarks.ours import Ours
from benchmarks.side import Side
from benchmarks.theirs import Theirs

BODY = b'{"model": "echo", "input": {"text": "a stitch in time saves nine"}}'
ACCEPTED = 202


def measure(*, quick: bool) -> list[Figure]:
    """Jobs per second of both sides, and how much of a core the load generator needed for it."""
    rounds, requests = (2, 500) if quick else (10, 1_000)
    with Ours.open() as ours, Theirs.open() as theirs, ours.serving() as our_port, theirs.serving() as their_port:
        submits(ours, our_port, requests)  # to warm up
        submits(theirs, their_port, requests)
        loads = [(submits(ours, our_port, requests), submits(theirs, their_port, requests)) for _ in range(rounds)]
    our_rates, their_rates = zip(*((mine.rate, other.rate) for mine, other in loads), strict=True)
    our_share, their_share = zip(*((mine.own_share, other.own_share) for mine, other in loads), strict=True)
    return [
        at_least_times("POSTs accepted, 16 connections, jobs/s", our_rates, their_rates, 2),
        compared("… of which the load generator needs, % of a core", our_share, their_share),
    ]


def submits(side: Side, port: int, requests: int, body: bytes = BODY) -> Load:
    """Submit; raises RuntimeError if not every one was accepted and stored."""
    before = side.tally().states.get("queued", 0)
    came = keep_busy(port, post(side.submit_path, body), requests=requests)
    stored = side.tally().states["queued"] - before
    if came.statuses != {ACCEPTED: requests} or stored != requests:
        raise RuntimeError(f"{side.name}: {came.statuses}, {stored} jobs stored; the last answer: {came.last!r}")
    return came
