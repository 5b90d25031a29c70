"""Servers that a test takes away and brings back: the same data, at the same address."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import (
    postgres_answers,
    postgres_cluster,
    private_folder,
    redis_answers,
    valkey_binary,
    wait_until_ready,
)
from tests.support.partition import Place
from tests.support.stack import free_port


class Server:
    """A process that is started more than once. ``command`` comes with its user; ``answers`` tells when it serves."""

    def __init__(
        self, url: str, command: tuple[Sequence[str], str | None], log: Path, answers: Callable[[], bool]
    ) -> None:
        self.url = url
        self._command, self._user = command
        self._log = log
        self._answers = answers
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, user=self._user)
        wait_until_ready(self._process, self._log, self._answers)

    def send(self, number: signal.Signals) -> None:
        """A signal to it."""
        assert self._process is not None, "start() comes first"
        self._process.send_signal(number)

    def take_away(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Return once it is gone."""
        self.send(how)
        if self._process is not None:
            self._process.wait()


@contextmanager
def running(server: Server, how: signal.Signals = signal.SIGKILL) -> Iterator[Server]:
    """It runs at first, and no more at the end."""
    server.start()
    try:
        yield server
    finally:
        server.take_away(how)


@contextmanager
def valkey(place: Place) -> Iterator[Server]:
    """A Valkey on TCP that keeps nothing on disk."""
    with private_folder() as folder:
        port = free_port()
        url = f"redis://{place.address}:{port}"
        command = [valkey_binary(), "--port", str(port), "--bind", *place.addresses, "--protected-mode", "no"]
        command += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
        with running(Server(url, place.inside(command), folder / "log", lambda: redis_answers(url))) as server:
            yield server


@contextmanager
def postgres(place: Place) -> Iterator[Server]:
    """A PostgreSQL on TCP."""
    with postgres_cluster() as cluster:
        port = free_port()
        with (cluster.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {place.neighbours} trust\n")
        command = [*cluster.command, "-h", ",".join(place.addresses), "-p", str(port)]
        url = f"postgresql://postgres@{place.address}:{port}/postgres"
        there = place.inside(command, cluster.user)
        server = Server(url, there, cluster.folder / "log", lambda: postgres_answers(url))
        # SIGINT is the stop that does not wait for clients to leave.
        with running(server, signal.SIGINT):
            yield server
