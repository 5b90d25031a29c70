"""The service as users run it: ``ktqueue up`` in a process of its own, with a home and a port of its own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ktqueue.embedded import socket_path

PATIENCE_S = 60.0
PORTS = range(20_000, 32_000)
"""Below those that connections are made from."""

ECHO_ONLY = """
[models.echo]
engine = "echo"
max_batch = 256
faults = true
"""


def free_port() -> int:
    """A TCP port that nobody uses now, and that no connection of another test is given by the kernel."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """What ``condition`` returns, once that is true. Fails the test if it takes longer than anything should."""
    deadline = time.monotonic() + patience_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patience_s:.0f} s in vain: {what}")
        time.sleep(0.02)
    return value


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; an orphan that has ended may stay a zombie, where nobody collects them."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Stack:
    """A running ``ktqueue up``, and a client of it."""

    def __init__(self, home: Path, models: Path | None, extra: Mapping[str, str]) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = home.parent / f"{home.name}.log"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("KTQ_")}
        self.env = {**inherited, "KTQ_HOME": str(home), "KTQ_PORT": str(self.port), **extra}
        if models is not None:
            self.env["KTQ_MODELS"] = str(models)
        self.http = httpx.Client(base_url=self.url, timeout=90.0)
        self._process: subprocess.Popen[bytes] | None = None
        self._family: set[psutil.Process] = set()

    def start(self) -> None:
        """Return once the service says it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ktqueue.cli", "up"], env=self.env, stdout=log, stderr=log
            )
        until(self._ready, f"a stack that is ready; its log:\n{self.said()}")

    def said(self) -> str:
        """Everything the stack printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail(f"the stack ended with status {self.process.returncode}:\n{self.said()}")
        try:
            return self.http.get("/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "start() comes first"
        return self._process

    def family(self) -> set[psutil.Process]:
        """Every process of the stack that lives now or was seen before."""
        parent = psutil.Process(self.process.pid)
        self._family |= {parent, *parent.children(recursive=True)}
        return self._family

    def find(self, words: str) -> list[psutil.Process]:
        """Processes of the stack whose command line holds ``words``, parents before their children."""
        found = []
        for process in sorted(self.family(), key=lambda each: each.pid):
            try:
                line = " ".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue
            if words in line:
                found.append(process)
        return found

    def signal(self, number: signal.Signals) -> None:
        """Signal the supervisor, having noted who belongs to it."""
        self.family()
        self.process.send_signal(number)

    def gone(self) -> bool:
        """Whether no process of the stack is left."""
        return not any(alive(each) for each in self._family)

    def stop(self) -> None:
        """End it; fails if anything is left behind."""
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGTERM)
            self._process.wait(30)
        until(self.gone, "the end of every process of the stack")
        self.http.close()

    def submit(self, model: str, job_input: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
        """POST one job; the job."""
        answer = self.http.post("/api/v1/jobs", json={"model": model, "input": job_input, **fields})
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def bulk(self, jobs: list[dict[str, Any]]) -> list[str]:
        """POST many jobs at once; their ids."""
        body = "".join(json.dumps(job) + "\n" for job in jobs)
        answer = self.http.post("/api/v1/jobs:bulk", content=body, headers={"Content-Type": "application/x-ndjson"})
        assert answer.status_code == 200, answer.text
        return [json.loads(line)["id"] for line in answer.text.splitlines()]

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it is now."""
        answer = self.http.get(f"/api/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def finished(self, job_id: str) -> dict[str, Any]:
        """The job once it has ended."""
        return dict(until(lambda: self._ended(job_id), f"the end of {job_id}; the log:\n{self.said()[-3000:]}"))

    def _ended(self, job_id: str) -> dict[str, Any] | None:
        job = self.http.get(f"/api/v1/jobs/{job_id}", params={"wait": "5"}).json()
        return job if job["state"] in {"succeeded", "failed", "cancelled", "expired"} else None


@contextmanager
def running(folder: Path, *, models: str | None = ECHO_ONLY, **extra: str) -> Iterator[Stack]:
    """A stack that serves the catalogue ``models`` (None: the project's own), stopped at the end."""
    catalogue = None
    if models is not None:
        catalogue = folder / "models.toml"
        catalogue.write_text(models)
    stack = Stack(folder / "home", catalogue, extra)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@contextmanager
def another_host(
    stack: Stack, folder: Path, models: str, *chosen: str, **extra: str
) -> Iterator[subprocess.Popen[bytes]]:
    """``ktqueue worker`` with a home and a catalogue of its own; ended at the end."""
    catalogue = folder / "models.toml"
    catalogue.write_text(models)
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("KTQ_")},
        "KTQ_HOME": str(folder / "home"),
        "KTQ_MODELS": str(catalogue),
        "KTQ_DATABASE_URL": f"sqlite:///{stack.home / 'ktqueue.db'}",
        "KTQ_REDIS_URL": f"unix://{socket_path(stack.home)}",
        **extra,
    }
    with (folder / "worker.log").open("ab") as log:
        command = [sys.executable, "-m", "ktqueue.cli", "worker", *chosen]
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
