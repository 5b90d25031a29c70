"""Who webhooks are told to: an endpoint for the end of every job, and what jobs name; now and then it fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from queue import SimpleQueue
from threading import Thread

import httpx

from tests.chaos.clients import Notes
from tests.chaos.dialect import Ours
from tests.chaos.history import Arrival, History
from tests.chaos.known import Known
from tests.chaos.services import Service
from tests.chaos.told import untold
from tests.support import mailbox
from tests.support.mailbox import Mailbox

ENDPOINT, JOB = "/endpoint", "/job"
WORK_S = 0.05
"""What a receiver does with an event before it answers."""
SLOW_S = 1.5
ASKED = 4
"""About one in so many arrivals the API is asked at once."""
WAYS = ("refuses connections", "answers 500", "is slow")
LOOK_S = 0.5


class Receiver:
    """Notes what arrives in ``history``."""

    def __init__(self, history: History, post: Mailbox, to_ask: SimpleQueue[str | None]) -> None:
        self._history = history
        self._post = post
        self._to_ask = to_ask
        self._dialect = Ours()
        self._status, self._work_s = 204, WORK_S
        post.answers |= {ENDPOINT: self._answer, JOB: self._answer}

    def fail(self, way: str) -> None:
        """In one of WAYS, until it is mended."""
        match way:
            case "refuses connections":
                self._post.go_away()
            case "answers 500":
                self._status = 500
            case "is slow":
                self._work_s = SLOW_S
            case _:
                raise ValueError(way)

    def mend(self) -> None:
        """Be well."""
        self._status, self._work_s = 204, WORK_S
        self._post.come_back()

    def _answer(self, arrival: mailbox.Arrival) -> int:
        job = self._dialect.job(arrival.event["data"])
        if len(self._history.arrivals) % ASKED == 0:
            self._to_ask.put(job.id)
        status = self._status
        time.sleep(self._work_s)
        digest, receiver = sha256(arrival.body).hexdigest(), arrival.path.removeprefix("/")
        self._history.arrivals.append(
            Arrival(receiver, arrival.id, arrival.at, digest, job, arrival.flaw, 200 <= status < 300)
        )
        return status


@contextmanager
def receiving(service: Service, history: History) -> Iterator[Receiver | None]:
    """A receiver of all that this service tells while the block runs; None where it tells nothing."""
    if not isinstance(service.dialect, Ours):
        yield None
        return
    to_ask: SimpleQueue[str | None] = SimpleQueue()
    asking = Thread(target=_ask, args=(Notes("receiver", history, service.dialect, service.port), to_ask), daemon=True)
    with mailbox.mailbox() as post, httpx.Client(base_url=f"http://127.0.0.1:{service.port}") as http:
        receiver = Receiver(history, post, to_ask)
        post.trust(http)
        post.register(http, ENDPOINT)
        history.endpoint = True
        service.dialect.hook = post.url(JOB)
        asking.start()
        try:
            yield receiver
        finally:
            to_ask.put(None)
            asking.join()


def _ask(notes: Notes, to_ask: SimpleQueue[str | None]) -> None:
    """Look at jobs that have just been told of; None ends it."""
    while (job_id := to_ask.get()) is not None:
        notes.poll(job_id)
    notes.connection.close()


def await_the_told(history: History, patience_s: float) -> None:
    """Return when nothing is left to be told, or when that takes too long: the checker says what is missing."""
    deadline = time.monotonic() + patience_s
    while untold(Known(history)) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
