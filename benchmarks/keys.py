"""What keys cost: POSTs a second with a key of one of 1,000 tenants each, against POSTs to an API that asks for none.

And whether the time of a refusal tells that a key's prefix is known: refusals of made-up keys against those of keys
with a known prefix and a made-up secret, in turns, within one process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from benchmarks.accept import ACCEPTED, BODY
from benchmarks.figures import Figure, at_least_times, at_most_times
from benchmarks.load import keep_busy, post
from benchmarks.ours import Ours
from ktqueue.access import KeyAccess
from ktqueue.api_key import new_parts, parts_of
from ktqueue.errors import Unauthenticated
from ktqueue.keys import KeyRequest, Keys
from ktqueue.registry.memory import MemoryRegistry
from ktqueue.registry.sql import SqlRegistry
from ktqueue.settings import Settings
from ktqueue.tenant import CLIENT_SCOPES

TENANTS = 1_000


class Keyed(Ours):
    """An API that asks for keys."""

    def settings(self, port: int = 8000) -> Settings:
        """The same, but for that."""
        return super().settings(port).model_copy(update={"require_keys": "true"})

    def keys(self, count: int) -> list[str]:
        """A key of each of so many tenants."""
        registry = SqlRegistry(self.settings().sql_url)
        try:
            return keys_of(Keys(registry), count)
        finally:
            registry.close()


def keys_of(use: Keys, count: int) -> list[str]:
    """A key of each of so many tenants."""
    return [use.create(KeyRequest(f"tenant-{number}", "", CLIENT_SCOPES))[1] for number in range(count)]


def measure(*, quick: bool) -> list[Figure]:
    """Both ratios."""
    rounds, requests, tenants = (2, 500, 100) if quick else (20, 1_000, TENANTS)
    with Keyed.open() as keyed, Ours.open() as bare:
        sent = [post(keyed.submit_path, BODY, key) for key in keyed.keys(tenants)]
        with keyed.serving() as keyed_port, bare.serving() as port:
            turns = [
                (submits(keyed_port, sent, requests), submits(port, [post(bare.submit_path, BODY)], requests))
                for _ in range(rounds + 1)
            ]
        # The first was to warm up.
        with_keys, without = zip(*turns[1:], strict=True)
    made_up, wrong = zip(*refusals(rounds, 1_000 if quick else 5_000), strict=True)
    return [
        at_least_times(f"POSTs accepted, keys of {tenants} tenants, jobs/s", with_keys, without, 0.9),
        at_most_times("Refusal of an unknown prefix against a wrong secret, µs", made_up, wrong, 1.1),
        at_least_times("… and no quicker", made_up, wrong, 0.9),
    ]


def submits(port: int, requests: Sequence[bytes], count: int) -> float:
    """Answers a second; raises RuntimeError if not every one was accepted."""
    came = keep_busy(port, requests, requests=count)
    if came.statuses != {ACCEPTED: count}:
        raise RuntimeError(f"{came.statuses}; the last answer: {came.last!r}")
    return came.rate


def refusals(rounds: int, count: int) -> list[tuple[float, float]]:
    """Of each round the median time of a refusal, in µs: of a made-up key, and of one whose prefix is known."""
    registry = MemoryRegistry(lambda: time.time_ns() // 1_000_000)
    access = KeyAccess(registry, lambda _: None)
    known = [parts for key in keys_of(Keys(registry), 100) if (parts := parts_of(key)) is not None]
    unknown = [new_parts() for _ in range(100)]

    def refused(number: int, prefix: str) -> float:
        header = f"Bearer {new_parts()._replace(prefix=prefix)}"
        began = time.perf_counter_ns()
        try:
            access.caller(header)
        except Unauthenticated:
            return (time.perf_counter_ns() - began) / 1_000
        raise RuntimeError(f"attempt {number} was let in")

    found = []
    for _ in range(rounds):
        pairs = [(refused(n, unknown[n % 100].prefix), refused(n, known[n % 100].prefix)) for n in range(count)]
        found.append((median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)))
    return found
