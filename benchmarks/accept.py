"""Jobs accepted per second over HTTP, one POST each, over 16 connections kept alive; no worker runs."""

from __future__ import annotations

from benchmarks.figures import Figure, at_least_times, compared
from benchmarks.load import Load, keep_busy, post
from benchmarks.ours import Ours
from benchmarks.side import Side
from benchmarks.theirs import Theirs

BODY = b'{"model": "echo", "input": {"text": "a stitch in time saves nine"}}'
WARM_UP = 500
ACCEPTED = 202


def measure(*, quick: bool) -> list[Figure]:
    """Jobs per second of both sides, and how much of a core the load generator needed for it."""
    rounds, requests = (1, 1_000) if quick else (3, 4_000)
    with Ours.open() as ours, Theirs.open() as theirs:
        loads = [(_load(ours, requests), _load(theirs, requests)) for _ in range(rounds)]
    what = "POSTs accepted, 16 connections, jobs/s"
    our_rates, their_rates = zip(*((mine.rate, other.rate) for mine, other in loads), strict=True)
    our_share, their_share = zip(*((mine.own_share, other.own_share) for mine, other in loads), strict=True)
    return [
        at_least_times(what, our_rates, their_rates, 2),
        compared("… of which the load generator needs, % of a core", our_share, their_share),
    ]


def _load(side: Side, requests: int) -> Load:
    request = post(side.submit_path, BODY)
    before = side.tally().states.get("queued", 0)
    with side.serving() as port:
        keep_busy(port, request, requests=WARM_UP)
        load = keep_busy(port, request, requests=requests)
    stored = side.tally().states["queued"] - before
    if load.statuses != {ACCEPTED: requests} or stored != WARM_UP + requests:
        raise RuntimeError(f"{side.name}: {load.statuses}, {stored} jobs stored; the last answer: {load.last!r}")
    return load
