"""The baseline, run: benchmarks/plain, with the settings that suit it best on two cores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from subprocess import Popen
from typing import Any

from benchmarks.processes import free_port, listens, python, run_once, running
from benchmarks.side import THREADS, WORKERS, Side
from ktqueue.celery_settings import broker_url

CONCURRENCY = 2
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING")


class Theirs(Side):
    """Flask on granian, Celery prefork, SQLAlchemy on SQLite."""

    name = "plain"
    submit_path = "/jobs"
    milliseconds = False

    @property
    def env(self) -> dict[str, str]:
        """What its modules read when they are imported."""
        return {
            "PLAIN_DATABASE_URL": f"sqlite:///{self.database}",
            "PLAIN_BROKER_URL": broker_url(f"unix://{self.socket}"),
        }

    def prepare(self) -> None:
        """The tables."""
        self.preload(0)

    def preload(self, jobs: int) -> None:
        """One transaction for all rows, then a message each."""
        run_once(python("benchmarks.plain", str(jobs)), self.env)

    def tell(self, task: str, events: int, urls: Sequence[str], event: Mapping[str, Any]) -> None:
        """Leave so many events like this one waiting to be sent by that task, to each of the URLs in turn."""
        command = python("benchmarks.plain.tell", task, str(events), *urls)
        run_once(command, self.env, given=json.dumps(event).encode())

    def working(self) -> AbstractContextManager[Popen[bytes]]:
        """One Celery worker, with a child a core."""
        worker = ("-A", "benchmarks.plain.tasks", "worker", "--pool=prefork", f"--concurrency={CONCURRENCY}")
        return running(python("celery", *worker, *QUIET), self.env, log=self.log)

    @contextmanager
    def serving(self) -> Iterator[int]:
        """Flask alone."""
        port = free_port()
        options = (f"--port={port}", f"--workers={WORKERS}", f"--blocking-threads={THREADS}", "--no-ws", "--no-log")
        granian = python("granian", "--interface=wsgi", *options, "benchmarks.plain.app:app")
        with running(granian, self.env, log=self.log, ready=lambda: listens(port)):
            yield port
