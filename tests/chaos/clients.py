"""Clients that behave well: each keeps some jobs under way, looks after them, and notes down all that it sees.

A closed loop: who has enough under way submits no more, so the load fits whatever the service can do just then.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from urllib.parse import quote

from tests.chaos.dialect import Dialect
from tests.chaos.history import TERMINAL, History, Job, Operation, Order, Seen
from tests.chaos.http import BROKEN, Answer, Connection, server_sent_events

WINDOW = 12
"""Jobs that one client has under way."""
PATIENCE_S = 20.0
"""A job that takes longer leaves the window; the last look is for it too."""
BETWEEN_S = 0.025
LOOK_BACK = 0.05
"""How often a client looks again at a job that has ended."""
LIST = 0.02
AFTER_REFUSAL_S = 0.25


@dataclass(slots=True)
class UnderWay:
    """A job that its client waits for."""

    order: Order
    job_id: str
    since: float
    cancelled: bool = False


class Notes:
    """One client's hand in the history."""

    def __init__(self, name: str, history: History, dialect: Dialect, port: int) -> None:
        self.name = name
        self.history = history
        self.dialect = dialect
        self.connection = Connection(port)

    def submit(self, order: Order) -> Job | None:
        """POST it once; the job, if the answer was 2xx."""
        headers = {"Idempotency-Key": order.key} if order.key else None
        began = time.monotonic()
        answer = self.connection.post(self.dialect.jobs, self.dialect.document(order), headers)
        return self._note("submit", began, answer, number=order.number, key=order.key)

    def poll(self, job_id: str) -> Job | None:
        """GET it."""
        began = time.monotonic()
        return self._note("poll", began, self.connection.get(f"{self.dialect.jobs}/{job_id}"), job_id=job_id)

    def cancel(self, job_id: str) -> Job | None:
        """Ask to cancel it."""
        began = time.monotonic()
        answer = self.connection.post(f"{self.dialect.jobs}/{job_id}/cancel")
        return self._note("cancel", began, answer, job_id=job_id)

    def list(self, limit: int, cursor: str | None = None) -> str | None:
        """Read a page of jobs, newest first; where the next begins. Raises ConnectionError without an answer."""
        began = time.monotonic()
        where = f"&cursor={quote(cursor)}" if cursor else ""
        answer = self.connection.get(f"{self.dialect.jobs}?model=echo&limit={limit}{where}")
        ended = time.monotonic()
        page = answer.body if answer.status == 200 else None
        jobs = tuple(self.dialect.job(body) for body in page["data"]) if page else ()
        self.history.operations.append(Operation(self.name, "list", began, ended, answer.status, jobs=jobs))
        if page is None:
            raise ConnectionError("no page")
        following: str | None = page["next_cursor"]
        return following

    def follow(self, job_id: str, began: float, events: tuple[Seen, ...], *, complete: bool) -> None:
        """Note what a reader of events was told."""
        self.history.operations.append(
            Operation(
                self.name, "follow", began, time.monotonic(), 200, job_id=job_id, events=events, complete=complete
            )
        )

    def _note(
        self,
        kind: str,
        began: float,
        answer: Answer,
        *,
        number: int | None = None,
        job_id: str | None = None,
        key: str | None = None,
    ) -> Job | None:
        ended = time.monotonic()
        good = answer.status in {200, 202} and isinstance(answer.body, dict)
        job = self.dialect.job(answer.body) if good else None
        jobs = () if job is None else (job,)
        job_id = job.id if job is not None else job_id
        self.history.operations.append(
            Operation(self.name, kind, began, ended, answer.status, number=number, job_id=job_id, key=key, jobs=jobs)
        )
        return job


class Client:
    """Submits, polls, cancels and lists, until told to stop."""

    def __init__(
        self,
        notes: Notes,
        orders: Iterator[Order],
        to_follow: SimpleQueue[str | None],
        stopping: threading.Event,
        *,
        lists: bool,
        chance: random.Random,
    ) -> None:
        self._notes = notes
        self._orders = orders
        self._to_follow = to_follow
        self._stopping = stopping
        self._lists = lists
        self._chance = chance
        self._under_way: deque[UnderWay] = deque()
        self._ended: deque[str] = deque(maxlen=200)

    def run(self) -> None:
        """One operation after another."""
        while not self._stopping.wait(BETWEEN_S):
            if len(self._under_way) < WINDOW:
                self._submit(next(self._orders))
            elif self._ended and self._chance.random() < LOOK_BACK:
                self._notes.poll(self._chance.choice(self._ended))
            elif self._lists and self._chance.random() < LIST:
                self._list()
            else:
                self._look(self._under_way.popleft())
        self._notes.connection.close()

    def _submit(self, order: Order) -> None:
        self._notes.history.orders[order.number] = order
        job = self._notes.submit(order)
        # With a key it is safe to send it again; without one, nobody knows whether an unanswered submit made a job.
        while order.key is not None and job is None and not self._stopping.wait(AFTER_REFUSAL_S):
            job = self._notes.submit(order)
        if job is None:
            self._stopping.wait(AFTER_REFUSAL_S)
            return
        if order.key is not None and self._chance.random() < 0.5:
            self._notes.submit(order)
        if order.follow:
            self._to_follow.put(job.id)
        self._under_way.append(UnderWay(order, job.id, time.monotonic()))

    def _look(self, mine: UnderWay) -> None:
        age_s = time.monotonic() - mine.since
        cancel_after_s = mine.order.cancel_after_s
        if cancel_after_s is not None and age_s >= cancel_after_s and not mine.cancelled:
            mine.cancelled = (job := self._notes.cancel(mine.job_id)) is not None
        else:
            job = self._notes.poll(mine.job_id)
        if job is not None and job.terminal:
            self._ended.append(mine.job_id)
        elif age_s < PATIENCE_S:
            self._under_way.append(mine)

    def _list(self) -> None:
        try:
            self._notes.list(limit=50)
        except ConnectionError:
            self._stopping.wait(AFTER_REFUSAL_S)


class Follower:
    """Reads the events of one job after another, each from the first to the last, over any number of connections."""

    def __init__(
        self,
        notes: Notes,
        to_follow: SimpleQueue[str | None],
        port: int,
        given_up: threading.Event,
    ) -> None:
        self._notes = notes
        self._to_follow = to_follow
        self._port = port
        self._given_up = given_up

    def run(self) -> None:
        """Until None comes instead of an id. What is read when it is given up stays incomplete."""
        while (job_id := self._to_follow.get()) is not None:
            began = time.monotonic()
            events: list[Seen] = []
            while not (ended := bool(events) and events[-1].state in TERMINAL) and not self._given_up.is_set():
                self._read(job_id, events)
            self._notes.follow(job_id, began, tuple(events), complete=ended)

    def _read(self, job_id: str, events: list[Seen]) -> None:
        """Append to ``events`` what one connection tells."""
        last = f"{events[-1].claim}-{events[-1].offset}" if events else ""
        path = f"{self._notes.dialect.jobs}/{job_id}/events"
        try:
            for event_id, data in server_sent_events(self._port, path, last):
                claim, _, offset = event_id.partition("-")
                events.append(Seen(int(claim), int(offset), data["state"]))
        except BROKEN:
            self._given_up.wait(AFTER_REFUSAL_S)
        else:
            self._given_up.wait(BETWEEN_S)
