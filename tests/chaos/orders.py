"""What clients order, decided by the seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.chaos.history import Order

A_CLIENT = 1_000_000
"""The numbers of one client's orders begin at a multiple of this."""
THE_END = ("job.succeeded", "job.failed", "job.cancelled", "job.expired")
EVERYTHING = ("job.queued", "job.started", *THE_END)


def mixed(seed: int, client: int) -> Iterator[Order]:
    """Every kind of job, for a service that knows them: slow, failing, cancelled, with a key, followed, told of."""
    chance = random.Random(f"{seed} {client}")
    number = client * A_CLIENT
    while True:
        number += 1
        kind = chance.random()
        delay_ms = chance.choice((0, 0, 50, 200, 500, 1_000, 1_500))
        yield Order(
            number,
            delay_ms=delay_ms,
            fail="permanent" if kind < 0.04 else "retryable" if kind < 0.06 else None,
            key=f"key-{seed}-{number}" if chance.random() < 0.3 else None,
            cancel_after_s=chance.uniform(0, 1.5) if chance.random() < 0.08 else None,
            follow=chance.random() < 0.1,
            webhook=chance.choices(((), THE_END, EVERYTHING), (4, 1, 1))[0],
        )


def plain(seed: int, client: int) -> Iterator[Order]:
    """Quick jobs that succeed: all that the baseline can do."""
    chance = random.Random(f"{seed} {client}")
    number = client * A_CLIENT
    while True:
        number += 1
        yield Order(number, delay_ms=chance.choice((0, 0, 5, 20, 50)))
