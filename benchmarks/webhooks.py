"""Events delivered per second to receivers that answer at once: they wait, then the sender starts.

All of it goes to one process with a port a receiver, in turns. Ours sends what jobs left in its outbox when they
ended; the plain side sends messages that hold the same event. The clock runs from the arrival of a round's first
twentieth to that of its last event. The plain side is told fewer: its rate does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.arrivals import Receiver, rate, receiver
from benchmarks.drain import finish_rate
from benchmarks.figures import Figure, at_least_times, compared
from benchmarks.ours import Ours
from benchmarks.theirs import Theirs

RECEIVERS = 8


def measure(*, quick: bool) -> list[Figure]:
    """Deliveries per second of both sides; of the plain one as it is written first, and as who knows better does."""
    rounds, events, plain, kept = (1, 1_000, 100, 400) if quick else (3, 10_000, 500, 2_000)
    our_rates, plain_rates, kept_rates = [], [], []
    with receiver(RECEIVERS) as receives, Ours.open() as ours, Theirs.open() as theirs:
        for _ in range(rounds):
            our_rate, event = _ours(ours, receives, events)
            our_rates.append(our_rate)
            plain_rates.append(_theirs(theirs, receives, "send_webhook", plain, event))
            kept_rates.append(_theirs(theirs, receives, "send_webhook_kept", kept, event))
    what = f"webhooks delivered to {RECEIVERS} fast receivers, per second"
    return [
        at_least_times(f"{what} (other: httpx.post)", our_rates, plain_rates, 5),
        compared("… (other: an httpx.Client that is kept)", our_rates, kept_rates),
    ]


def _ours(ours: Ours, receives: Receiver, events: int) -> tuple[float, Mapping[str, Any]]:
    """The rate, and one of the events."""
    ours.preload(events, receives.urls)
    finish_rate(ours, events)
    with ours.delivering():
        arrivals = receives.take(events)
    return rate(arrivals), arrivals[0].event


def _theirs(theirs: Theirs, receives: Receiver, task: str, events: int, event: Mapping[str, Any]) -> float:
    theirs.tell(task, events, receives.urls, event)
    with theirs.working():
        return rate(receives.take(events))
