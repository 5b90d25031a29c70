"""Jobs finished per second, worker side: a backlog waits, then the workers start.

The clock runs from the moment a twentieth of a round's jobs is finished to its last, as the rows record it, so that
neither side is charged for starting up. The plain side keeps a backlog of 20,000 and is timed on the next 2,000 of it
each round: its rate does not depend on how many it has done.
"""

from __future__ import annotations

import time

from benchmarks.figures import Figure, at_least_times
from benchmarks.ours import Ours
from benchmarks.side import Side
from benchmarks.theirs import Theirs

STUCK_S = 120.0


def measure(*, quick: bool) -> list[Figure]:
    """Jobs per second of both sides."""
    rounds, backlog, taken = (1, 5_000, 2_000) if quick else (3, 20_000, 2_000)
    our_rates, their_rates = [], []
    with Ours.open() as ours, Theirs.open() as theirs:
        theirs.preload(backlog)
        for _ in range(rounds):
            ours.preload(backlog)
            our_rates.append(finish_rate(ours, backlog))
            their_rates.append(finish_rate(theirs, taken))
        check(ours, finished=rounds * backlog)
        check(theirs, finished=rounds * taken)
    return [at_least_times(f"no-op jobs finished, {backlog:,} waiting, jobs/s", our_rates, their_rates, 10)]


def finish_rate(side: Side, jobs: int) -> float:
    """Let workers finish at least ``jobs`` more; how many a second they did."""
    before = side.finished()
    until = time.monotonic() + STUCK_S
    with side.working():
        while side.finished() < before + jobs:
            if time.monotonic() > until:
                raise RuntimeError(f"{side.name}: stuck at {side.tally()}")
            time.sleep(0.2)
    times = side.finish_times()[before : before + jobs]
    warm = jobs // 20
    return (jobs - warm) / (times[-1] - times[warm - 1])


def check(side: Side, *, finished: int) -> None:
    """Raises RuntimeError unless every job that ended succeeded with its input as the result."""
    tally = side.tally()
    others = set(tally.states) - {"succeeded", "queued"}
    if tally.wrong or others or tally.states["succeeded"] < finished:
        raise RuntimeError(f"{side.name}: not every job succeeded with its input as the result: {tally}")
