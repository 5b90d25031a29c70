"""A history, sorted by job, and what the rules of the checker have to say."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from tests.chaos.history import Arrival, History, Job, Operation, Order

ACCEPTED = frozenset({200, 202})


@dataclass(frozen=True, slots=True)
class Violation:
    """``job`` is the id of the job it is about, or the key."""

    rule: str
    job: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """One job in the answer to one operation."""

    job: Job
    operation: Operation

    def __str__(self) -> str:
        job, operation = self.job, self.operation
        what = f"{job.state} {job.error or ''} attempt={job.attempt} finished_at={job.finished_at} result={job.result}"
        return f"{operation.kind} by {operation.client} at {operation.began:.3f}-{operation.ended:.3f}: {what}"


class Known:
    """A history, sorted by job."""

    def __init__(self, history: History) -> None:
        self.orders = history.orders
        self.operations = history.operations
        self.actions = history.actions
        self.accepted: dict[str, Operation] = {}
        self.sightings: dict[str, list[Sighting]] = defaultdict(list)
        self.follows: dict[str, list[Operation]] = defaultdict(list)
        self.endpoint = history.endpoint
        self.arrivals: dict[str, list[Arrival]] = {}
        for arrival in sorted(history.arrivals, key=lambda each: each.at):
            self.arrivals.setdefault(arrival.job.id, []).append(arrival)
        for operation in history.operations:
            if operation.kind == "submit" and operation.status in ACCEPTED and operation.job_id:
                self.accepted.setdefault(operation.job_id, operation)
            if operation.kind == "follow" and operation.job_id:
                self.follows[operation.job_id].append(operation)
            for job in operation.jobs:
                self.sightings[job.id].append(Sighting(job, operation))

    def order_of(self, job_id: str) -> Order | None:
        """What was asked for, told by the number in the job's input."""
        return next((self.orders.get(sighting.job.number) for sighting in self.sightings[job_id]), None)

    def ends(self, job_id: str) -> list[Sighting]:
        """The sightings of it as ended."""
        return [sighting for sighting in self.sightings[job_id] if sighting.job.terminal]

    def told(self, job_id: str) -> list[Arrival]:
        """What arrived about it, in that order."""
        return self.arrivals.get(job_id, [])

    def receivers(self, job_id: str) -> set[str]:
        """Who is to be told of its end."""
        order = self.order_of(job_id)
        return {*(["endpoint"] if self.endpoint else []), *(["job"] if order and order.webhook else [])}
