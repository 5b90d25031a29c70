"""The service under test, its processes started one by one with the commands that `ktqueue up` starts them with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle
from subprocess import Popen
from typing import Any

import orjson

from benchmarks.load import HOST
from benchmarks.processes import free_port, listens, python, run_once, running
from benchmarks.side import THREADS, WORKERS, Side
from ktqueue.bootstrap import bootstrap
from ktqueue.celery_settings import DELIVERIES
from ktqueue.intake import Submission
from ktqueue.job import Task
from ktqueue.lanes.redis import BACKLOG, RedisLanes
from ktqueue.redis_client import connect
from ktqueue.settings import Settings
from ktqueue.tenant import DEFAULT_TENANT, Caller
from ktqueue.webhook import TERMINAL, Webhook
from ktqueue.webhook_addresses import origin

MODELS = '[models.echo]\nengine = "echo"\nmax_batch = 256\n'
GROUP = 500


class Ours(Side):
    """Lanes, bells, and claims by the group."""

    name = "ktqueue"
    submit_path = "/api/v1/jobs"
    milliseconds = True

    def settings(self, port: int = 8000) -> Settings:
        """What `ktqueue up` would run it with."""
        return Settings(
            home=self.home,
            port=port,
            models=self.home / "models.toml",
            redis_url=f"unix://{self.socket}",
            api_workers=WORKERS,
            api_threads=THREADS,
            webhook_allow=HOST,
            log_level="warning",
        )

    def prepare(self) -> None:
        """The catalogue and the newest schema."""
        (self.home / "models.toml").write_text(MODELS, encoding="utf-8")
        run_once(python("ktqueue.migrate"), self.settings().as_env())

    def preload(self, jobs: int, urls: Sequence[str] = (), tenants: int = 0) -> None:
        """Through the use case that a bulk submit calls. The ends of the jobs are told to each of ``urls`` in turn.

        They belong to so many ``tenants``; 0 is the only one that there is without keys.
        """
        intake = bootstrap(self.settings()).intake
        webhooks = cycle([Webhook(url, origin(url), TERMINAL) for url in urls] or [None])
        for start in range(0, jobs, GROUP):
            numbers = range(start, min(start + GROUP, jobs))
            intake.submit_many(
                [
                    Submission(
                        "echo",
                        Task.ECHO,
                        {"n": number},
                        {},
                        webhook=next(webhooks),
                        caller=Caller(f"tenant-{number % tenants}" if tenants else DEFAULT_TENANT),
                    )
                    for number in numbers
                ]
            )

    def working(self) -> AbstractContextManager[Popen[bytes]]:
        """The lane's worker, with the one slot it has by default."""
        return running(python("worker", "lane", "echo"), self.settings().as_env(), log=self.log)

    def ended(self) -> list[tuple[str, Any, Any, Any]]:
        """State, input, result and error of every job that has ended."""
        rows = self._ask("SELECT state, input, result, error FROM jobs WHERE finished_at IS NOT NULL")
        return [(state, *(None if each is None else orjson.loads(each) for each in told)) for state, *told in rows]

    @contextmanager
    def delivering(self) -> Iterator[None]:
        """The worker that sends webhooks, from when it has heard a bell."""
        bootstrap(self.settings()).delivery_bell.ring()
        with connect(self.settings().redis_url) as client:
            command = python("worker", "deliver")
            heard = lambda: not client.llen(DELIVERIES)  # noqa: E731 - a condition
            with running(command, self.settings().as_env(), log=self.log, ready=heard):
                yield

    @contextmanager
    def tended(self) -> Iterator[None]:
        """Swept every second, by the light worker at beat's word."""
        environment = self.settings().as_env()
        with connect(self.settings().redis_url) as client:
            lanes = RedisLanes(client, bell=lambda _: None)
            client.delete(BACKLOG)
            with (
                running(python("worker", "beat"), environment, log=self.log),
                running(
                    python("worker", "light"), environment, log=self.log, ready=lambda: lanes.backlog() is not None
                ),
            ):
                yield

    @contextmanager
    def serving(self) -> Iterator[int]:
        """The API alone."""
        port = free_port()
        with running(python("api"), self.settings(port).as_env(), log=self.log, ready=lambda: listens(port)):
            yield port
