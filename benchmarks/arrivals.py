"""What reached the receiver of webhooks, and when; for all sides the same process (`benchmarks.receiver`)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.load import HOST, Connection, get
from benchmarks.processes import free_ports, listens, python, running

STUCK_S = 120.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event that came in at ``port``, ``at`` Unix seconds."""

    port: int
    at: float
    event: dict[str, Any]

    @property
    def age_ms(self) -> float:
        """Milliseconds since its job finished; one machine, one clock."""
        return (self.at - datetime.fromisoformat(self.event["data"]["finished_at"]).timestamp()) * 1000


class Receiver:
    """Asks the receiver's process."""

    def __init__(self, ports: Sequence[int], connection: Connection) -> None:
        self.ports = ports
        self._connection = connection

    @property
    def urls(self) -> list[str]:
        """One a port: so many receivers, to those who tell them apart by origin."""
        return [f"http://{HOST}:{port}/" for port in self.ports]

    @property
    def allow(self) -> str:
        """What KTQ_WEBHOOK_ALLOW has to say for them to be called."""
        return HOST

    def count(self) -> int:
        """How many events are here that nobody took yet."""
        return int(self._ask("/count"))

    def take(self, expected: int, every_s: float = 0.05) -> list[Arrival]:
        """All events, once ``expected`` are here. Raises RuntimeError if they don't come, or others do."""
        until = time.monotonic() + STUCK_S
        while self.count() < expected and time.monotonic() < until:
            time.sleep(every_s)
        arrivals = [Arrival(*arrival) for arrival in json.loads(self._ask("/taken"))]
        ids = {(arrival.port, arrival.event["id"]) for arrival in arrivals}
        if len(ids) != expected:
            raise RuntimeError(f"{expected} events were to come; {len(arrivals)} did, {len(ids)} different ones")
        return arrivals

    def _ask(self, path: str) -> bytes:
        return self._connection.ask(get(path))[1]


@contextmanager
def receiver(ports: int) -> Iterator[Receiver]:
    """A receiver on so many ports."""
    chosen = free_ports(ports)
    with TemporaryDirectory(prefix="ktq-bench-") as folder:
        command = python("benchmarks.receiver", *map(str, chosen))
        with (
            running(command, {}, log=Path(folder) / "log", ready=lambda: listens(chosen[-1])),
            closing(Connection(chosen[0])) as connection,
        ):
            yield Receiver(chosen, connection)


def rate(arrivals: Sequence[Arrival]) -> float:
    """Events per second, from the arrival of the first twentieth to the last, so that no side's start is counted."""
    times = sorted(arrival.at for arrival in arrivals)
    warm = len(times) // 20
    return (len(times) - warm) / (times[-1] - times[warm - 1])
