"""What happened: each operation of each client with what it saw, and each thing the nemesis did.

Instants are seconds on this machine's monotonic clock. An operation took effect at some moment between ``began`` and
``ended``, nobody knows which; so one is certainly after another only if it began once the other had ended.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True, slots=True)
class Order:
    """One job as a client wants it. The number makes its input, and so its result, unlike any other's."""

    number: int
    delay_ms: int = 0
    fail: str | None = None
    key: str | None = None
    cancel_after_s: float | None = None
    follow: bool = False
    webhook: tuple[str, ...] = ()
    """The events that are to be told to the job's own webhook; none, no webhook."""

    @property
    def input(self) -> dict[str, Any]:
        """What is sent, and has to come back."""
        return {"number": self.number, "text": f"{self.number:x}" * (1 + self.number % 7)}


@dataclass(frozen=True, slots=True)
class Job:
    """A job as a client saw it. ``number`` is that of its input."""

    id: str
    number: int
    state: str
    result: Any = None
    error: str | None = None
    attempt: int | None = None
    finished_at: Any = None

    @property
    def terminal(self) -> bool:
        """Whether the job may never change again."""
        return self.state in TERMINAL


@dataclass(frozen=True, slots=True)
class Seen:
    """One server-sent event."""

    claim: int
    offset: int
    state: str


@dataclass(frozen=True, slots=True)
class Operation:
    """``kind`` is submit, poll, cancel, follow or list. ``status`` is None if there was no answer."""

    client: str
    kind: str
    began: float
    ended: float
    status: int | None
    number: int | None = None
    job_id: str | None = None
    key: str | None = None
    jobs: tuple[Job, ...] = ()
    events: tuple[Seen, ...] = ()
    complete: bool = True
    """Of a follow: it was read up to the event that says that the job has ended."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A webhook as its receiver saw it, the last byte of it at ``at``, with the job that it tells of.

    ``receiver`` is endpoint or job. ``digest`` stands for its bytes, ``flaw`` says why it does not verify, and what was
    ``taken`` was answered with a 2xx.
    """

    receiver: str
    event_id: str
    at: float
    digest: str
    job: Job
    flaw: str | None = None
    taken: bool = True

    @property
    def moment(self) -> int:
        """Where it stands among the events of its job."""
        return int(self.event_id.rpartition("_")[2])


@dataclass(slots=True)
class Action:
    """What the nemesis did, and until when its effect lasted."""

    kind: str
    began: float
    ended: float
    pids: tuple[int, ...] = ()
    said: str = ""
    undone: tuple[str, ...] = ()
    """Of a SIGTERM: jobs that the victim had, and had not ended when it was gone."""
    measured: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class History:
    """Appended to by every thread; a list's append is atomic. ``endpoint``: one registered for the end of every job."""

    orders: dict[int, Order] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    endpoint: bool = False

    def save(self, folder: Path) -> None:
        """As JSON lines, one file a kind."""
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "orders.jsonl", self.orders.values())
        by_time: list[Operation] = sorted(self.operations, key=lambda each: each.began)
        _write(folder / "operations.jsonl", by_time)
        _write(folder / "actions.jsonl", self.actions)
        _write(folder / "arrivals.jsonl", self.arrivals)


def _write(path: Path, records: Iterable[Order | Operation | Action | Arrival]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            # Not `asdict` for the whole, which copies what it holds: there are some hundred thousand operations.
            shallow = {each.name: getattr(record, each.name) for each in dataclasses.fields(record)}
            file.write(json.dumps(shallow, default=dataclasses.asdict) + "\n")
