"""What a long queue costs: jobs accepted, and claimed and finished, while 100,000 wait, against an empty queue.

Two services of ours, a long queue in one of them, take turns. Only the one whose turn it is runs, swept every second
as `ktqueue up` has it, so what the sweep spends on a long queue is charged to that queue.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.accept import submits
from benchmarks.drain import check, finish_rate
from benchmarks.figures import Figure, at_least_times
from benchmarks.ours import Ours

WANTED = 0.8


def measure(*, quick: bool) -> list[Figure]:
    """Jobs per second of both queues; "other" is the empty one."""
    rounds, waiting, requests, jobs = (1, 5_000, 500, 2_000) if quick else (5, 100_000, 3_000, 20_000)
    with Ours.open() as long, Ours.open() as empty:
        long.preload(waiting)
        submitted = [(_submits(long, requests), _submits(empty, requests)) for _ in range(rounds)]
        _empty(empty)
        finished = [(_finishes(long, waiting, jobs), _finishes(empty, 0, jobs)) for _ in range(rounds)]
        check(long, finished=rounds * jobs)
        check(empty, finished=rounds * jobs)
    told = f"with {waiting:,} waiting (other: none), jobs/s"
    return [_figure(f"POSTs accepted {told}", submitted), _figure(f"no-op jobs finished {told}", finished)]


def _figure(what: str, rates: Sequence[tuple[float, float]]) -> Figure:
    long, empty = zip(*rates, strict=True)
    return at_least_times(what, long, empty, WANTED)


def _submits(side: Ours, requests: int) -> float:
    with side.serving() as port, side.tended():
        submits(side, port, requests // 5)  # to warm up
        return submits(side, port, requests).rate


def _finishes(side: Ours, waiting: int, jobs: int) -> float:
    """With at least ``waiting`` jobs in the queue to the end."""
    side.preload(max(0, waiting + jobs - side.tally().states.get("queued", 0)))
    with side.tended():
        return finish_rate(side, jobs)


def _empty(side: Ours) -> None:
    queued = side.tally().states.get("queued", 0)
    with side.tended():
        finish_rate(side, queued)
