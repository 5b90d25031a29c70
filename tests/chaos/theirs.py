"""The baseline under the hammer: plain Flask and Celery, its processes kept running by the same supervisor as ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ktqueue.embedded import server_command, socket_path
from tests.chaos.dialect import Dialect, Plain
from tests.chaos.services import ALWAYS, Role, Service
from tests.support.stack import free_port, until

QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING"]


class Baseline(Service):
    """The plain service. It has neither leases nor a grace, so those of ours time its faults."""

    name = "plain Celery"
    dialect: Dialect = Plain()
    roles: Mapping[str, Role] = {
        "api": Role("benchmarks.plain.app:app"),
        "api worker": Role("benchmarks.plain.app:app", below=True),
        "worker": Role("benchmarks.plain.tasks worker"),
        "child": Role("benchmarks.plain.tasks worker", below=True),
        "valkey": Role("valkey-server"),
    }
    health = "/jobs/0"
    healthy = 404

    def __init__(self, folder: Path, *, lease_s: float, grace_s: float) -> None:
        home = folder / "plain"
        home.mkdir(parents=True, exist_ok=True)
        super().__init__(free_port(), f"unix://{socket_path(home)}", lease_s=lease_s, grace_s=grace_s)
        self._programs = _programs(home, self.port)
        self._log = folder / "home.log"
        self._env = {
            **os.environ,
            "PLAIN_DATABASE_URL": f"sqlite:///{home / 'plain.db'}",
            "PLAIN_BROKER_URL": f"redis+socket://{socket_path(home)}",
        }
        self._supervisor: subprocess.Popen[bytes] | None = None

    def kinds(self) -> frozenset[str]:
        """It has neither light worker nor beat, and its servers are its own."""
        return frozenset({f"kill {role}" for role in (*self.roles, "all")} | ALWAYS)

    def supervisors(self) -> list[int]:
        """The one."""
        assert self._supervisor is not None, "start() comes first"
        return [self._supervisor.pid]

    def start(self) -> None:
        """Tables, where there are none, and processes."""
        subprocess.run([sys.executable, "-m", "benchmarks.plain"], env=self._env, check=True)
        described = json.dumps({"programs": self._programs, "grace_s": self.grace_s, "start_timeout_s": 30.0})
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "tests.support.supervised", described]
            self._supervisor = subprocess.Popen(command, env=self._env, stdout=log, stderr=log)
        until(self.ready, "the plain service")

    def stop(self) -> None:
        """In good order."""
        if self._supervisor is not None:
            self._supervisor.terminate()
            self._supervisor.wait(30)


@contextmanager
def baseline(folder: Path, *, lease_s: float, grace_s: float) -> Iterator[Baseline]:
    """The plain service on SQLite and a Valkey of its own, for as long as the block runs."""
    service = Baseline(folder, lease_s=lease_s, grace_s=grace_s)
    try:
        service.start()
        yield service
    finally:
        service.stop()


def _programs(home: Path, port: int) -> list[dict[str, object]]:
    python = [sys.executable, "-m"]
    serve = ["--interface=wsgi", f"--port={port}", "--workers=2", "--blocking-threads=32", "--no-ws", "--no-log"]
    work = ["-A", "benchmarks.plain.tasks", "worker", "--pool=prefork", "--concurrency=2"]
    return [
        {"name": "redis", "argv": server_command(home), "serves_others": True, "ready": str(socket_path(home))},
        {"name": "api", "argv": [*python, "granian", *serve, "benchmarks.plain.app:app"]},
        {"name": "worker", "argv": [*python, "celery", *work, *QUIET]},
    ]
