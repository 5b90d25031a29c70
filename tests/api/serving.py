"""A running ``python -m api``: granian's processes on loopback, over a real SQLite and a real Valkey."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from ktqueue.bootstrap import Services, bootstrap
from ktqueue.migrate import upgrade
from ktqueue.settings import Settings
from tests.support.stack import ECHO_ONLY, free_port, until

JOBS = "/api/v1/jobs"
GOOD = {"model": "echo", "input": {"say": "hi"}}
MAX_BODY = 1_000_000


class Served:
    """A running ``python -m api``, and its use cases to play the worker with."""

    def __init__(self, folder: Path, redis_url: str, listener: socket.socket | None = None) -> None:
        models = folder / "models.toml"
        models.write_text(ECHO_ONLY)
        self.settings = Settings(
            home=folder,
            redis_url=redis_url,
            models=models,
            port=free_port() if listener is None else listener.getsockname()[1],
            api_workers=1,
            api_threads=8,
            max_waits=2,
            max_body_bytes=MAX_BODY,
            grace_seconds=8,
        )
        upgrade(self.settings.sql_url)
        self._listener = listener
        self.log = folder / "log"
        self.process = self.start()
        self.url = f"http://127.0.0.1:{self.settings.port}"
        self.http = httpx.Client(base_url=self.url, timeout=90)
        self.services: Services = bootstrap(self.settings)
        until(self._ready, f"an API that is ready: {self.log}")

    def start(self) -> subprocess.Popen[bytes]:
        """A process of it; on the listener, if there is one."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KTQ_")}
        shared = [] if self._listener is None else [self._listener.fileno()]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "api", *map(str, shared)],
                env=inherited | self.settings.as_env(),
                pass_fds=shared,
                stdout=log,
                stderr=log,
            )

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(self.log.read_text())
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def submit(self) -> str:
        """Submit a job; its id."""
        job_id: str = self.http.post(JOBS, json=GOOD).raise_for_status().json()["id"]
        return job_id

    def work(self) -> int:
        """Finish whatever waits; how many."""
        execution = self.services.execution
        jobs = execution.claim("echo", 1000, token="t", worker="w")
        execution.settle([execution.success(job, job.input, None, len(jobs)) for job in jobs])
        return len(jobs)

    def family(self) -> list[psutil.Process]:
        """Every process of it."""
        main = psutil.Process(self.process.pid)
        return [main, *main.children(recursive=True)]

    def stop(self) -> None:
        """End it, whatever state it is in."""
        self.http.close()
        for process in self.family() if self.process.poll() is None else []:
            process.kill()
        self.process.wait()


def gone(family: list[psutil.Process]) -> bool:
    """Whether none of them runs any more."""
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
