"""Both services whole, as they are run: everything that a job passes through from POST to its end."""

from __future__ import annotations

import http
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.load import HOST, Connection, get
from benchmarks.ours import MODELS, Ours
from benchmarks.processes import free_port, python, running
from benchmarks.theirs import Theirs
from ktqueue.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """Where it is reached. ``wait``: the query that lets a poll wait for the end of the job."""

    name: str
    port: int
    path: str
    wait: str = ""


@contextmanager
def ktqueue(**changed: Any) -> Iterator[Service]:
    """``ktqueue up`` with a catalogue of one model that echoes; its settings as they are, but for those given."""
    with TemporaryDirectory(prefix="ktq-bench-") as folder:
        home = Path(folder)
        (home / "models.toml").write_text(MODELS, encoding="utf-8")
        ours = {"home": home, "port": free_port(), "models": home / "models.toml", "webhook_allow": HOST}
        settings = Settings.model_validate({**ours, "log_level": "warning", **changed})
        command = python("ktqueue.cli", "up")
        with running(command, settings.as_env(), log=home / "log", ready=lambda: _is_ready(settings.port)):
            yield Service("ktqueue", settings.port, Ours.submit_path, wait="?wait=10")


@contextmanager
def plain() -> Iterator[Service]:
    """The baseline with its worker and its API."""
    with Theirs.open() as theirs, theirs.working(), theirs.serving() as port:
        yield Service("plain", port, Theirs.submit_path)


def _is_ready(port: int) -> bool:
    try:
        with closing(Connection(port)) as connection:
            return connection.ask(get("/readyz"))[0] == http.HTTPStatus.OK
    except OSError:
        return False
