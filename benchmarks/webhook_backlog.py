"""What events that can't be delivered cost jobs: accepted, and claimed and finished, while 100,000 wait, against none.

Two services of ours, each with as many jobs that have ended. In one of them nobody was told: half of the events are
for a receiver whose circuit is open, half wait for their next attempt. They take turns, as in `backlog`, with the
sender and the sweep running; the jobs of some turns have a webhook, to a receiver that is well.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing

from benchmarks.accept import submits
from benchmarks.arrivals import Receiver, receiver
from benchmarks.drain import check, finish_rate
from benchmarks.figures import Figure, at_least_times
from benchmarks.idle import INPUT
from benchmarks.load import HOST
from benchmarks.ours import Ours

WANTED = 0.9
DOWN, FAILED = f"http://{HOST}:1", f"http://{HOST}:2"
HOUR_MS = 3_600_000


def measure(*, quick: bool) -> list[Figure]:
    """Jobs per second of both services; "other" is the one where nothing waits."""
    rounds, waiting, requests, jobs = (1, 5_000, 500, 2_000) if quick else (5, 100_000, 2_000, 20_000)
    with receiver(1) as receives, Ours.open() as long, Ours.open() as empty:
        _end_jobs(long, waiting, [f"{DOWN}/", f"{FAILED}/"])
        _end_jobs(empty, waiting, [])
        _put_off(long)
        turns: list[tuple[list[float], list[float]]] = []
        for number in range(rounds):
            # Each goes first in turn, so that neither gains from being second.
            sides = (long, empty) if number % 2 == 0 else (empty, long)
            rates = {side: _turn(side, receives, requests, jobs) for side in sides}
            turns.append((rates[long], rates[empty]))
        if _pending(long) != waiting or _pending(empty):
            raise RuntimeError(f"{_pending(long)} and {_pending(empty)} events wait, not {waiting} and none")
        check(long, finished=long.finished())
        check(empty, finished=long.finished())
    told = f"with {waiting:,} undelivered (other: none), jobs/s"
    whats = (
        f"POSTs accepted {told}",
        f"no-op jobs finished {told}",
        "… POSTs accepted that ask for a webhook",
        "… no-op jobs finished that have a webhook, while the sender tells of them",
    )
    return [
        at_least_times(what, [with_[place] for with_, _ in turns], [without[place] for _, without in turns], WANTED)
        for place, what in enumerate(whats)
    ]


def _end_jobs(side: Ours, jobs: int, urls: Sequence[str]) -> None:
    side.preload(jobs, urls)
    finish_rate(side, jobs)


def _put_off(side: Ours) -> None:
    """As it would be after some failures, for an hour."""
    circuit = "INSERT INTO webhook_circuits SELECT target, 20, min(at), min(at) + ? FROM deliveries WHERE target = ?"
    with closing(sqlite3.connect(side.database, timeout=30)) as database, database:
        database.execute(circuit, (HOUR_MS, DOWN))
        database.execute("UPDATE deliveries SET next_at = next_at + ? WHERE target = ?", (HOUR_MS, FAILED))


def _turn(side: Ours, receives: Receiver, requests: int, jobs: int) -> list[float]:
    """Jobs accepted and finished per second without webhooks, then with."""
    with side.tended(), side.delivering(), side.serving() as port:
        submits(side, port, requests // 5)  # to warm up
        without = [submits(side, port, requests).rate, _finishes(side, jobs, [])]
        told = json.dumps({"model": "echo", "input": INPUT, "webhook": {"url": receives.urls[0]}}).encode()
        with_ = [submits(side, port, requests, told).rate, _finishes(side, jobs // 5, receives.urls)]
        receives.take(requests + jobs // 5)
    return without + with_


def _finishes(side: Ours, jobs: int, urls: Sequence[str]) -> float:
    """Until nothing is left in the queue, so many more being put there."""
    side.preload(jobs, urls)
    return finish_rate(side, side.tally().states["queued"])


def _pending(side: Ours) -> int:
    with closing(sqlite3.connect(side.database, timeout=30)) as database:
        return int(database.execute("SELECT count(*) FROM deliveries WHERE state = 'pending'").fetchone()[0])
