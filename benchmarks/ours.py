"""The service under test, its processes started one by one with the commands that `ktqueue up` starts them with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from subprocess import Popen

from benchmarks.processes import free_port, listens, python, run_once, running
from benchmarks.side import THREADS, WORKERS, Side
from ktqueue.bootstrap import bootstrap
from ktqueue.intake import Submission
from ktqueue.job import Task
from ktqueue.lanes.redis import BACKLOG, RedisLanes
from ktqueue.redis_client import connect
from ktqueue.settings import Settings

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
            log_level="warning",
        )

    def prepare(self) -> None:
        """The catalogue and the newest schema."""
        (self.home / "models.toml").write_text(MODELS, encoding="utf-8")
        run_once(python("ktqueue.migrate"), self.settings().as_env())

    def preload(self, jobs: int) -> None:
        """Through the use case that a bulk submit calls."""
        intake = bootstrap(self.settings()).intake
        for start in range(0, jobs, GROUP):
            numbers = range(start, min(start + GROUP, jobs))
            intake.submit_many([Submission("echo", Task.ECHO, {"n": number}, {}) for number in numbers])

    def working(self) -> AbstractContextManager[Popen[bytes]]:
        """The lane's worker, with the one slot it has by default."""
        return running(python("worker", "lane", "echo"), self.settings().as_env(), log=self.log)

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
