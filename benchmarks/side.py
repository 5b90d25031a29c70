"""What a scenario may ask of either side. What the database holds decides, not what a side says of itself."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from benchmarks.processes import running
from ktqueue.embedded import answers, server_command, socket_path

WORKERS, THREADS = 2, 32
"""How HTTP is served on both sides: granian's processes, and the threads of each."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many jobs are in each state, and how many succeeded with a result other than their input."""

    states: Mapping[str, int]
    wrong: int


class Side(ABC):
    """A job service whose one model echoes, on SQLite in a folder of its own, with a Valkey of its own."""

    name: str
    submit_path: str
    milliseconds: bool
    """Whether instants in the database are that, and not seconds."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home / "log"
        self.socket = socket_path(home)
        self.database = home / f"{self.name}.db"

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Self]:
        """A side with an empty database and a Valkey that answers; all of it gone afterwards."""
        with TemporaryDirectory(prefix="ktq-bench-") as folder:
            side = cls(Path(folder))
            with running(server_command(side.home), {}, log=side.log, ready=lambda: answers(side.socket)):
                side.prepare()
                yield side

    @abstractmethod
    def prepare(self) -> None:
        """Make the tables."""

    @abstractmethod
    def preload(self, jobs: int) -> None:
        """Leave that many more jobs waiting, as if they had been submitted."""

    @abstractmethod
    def working(self) -> AbstractContextManager[object]:
        """Workers run while this context lasts."""

    @abstractmethod
    def serving(self) -> AbstractContextManager[int]:
        """The API is served while this context lasts, on the port it gives."""

    def tally(self) -> Tally:
        """The jobs, counted."""
        states = dict(self._ask("SELECT state, count(*) FROM jobs GROUP BY state"))
        ((wrong,),) = self._ask(
            "SELECT count(*) FROM jobs WHERE state = 'succeeded' AND json(result) IS NOT json(input)"
        )
        return Tally(states, wrong)

    def finished(self) -> int:
        """How many jobs have ended."""
        ((finished,),) = self._ask("SELECT count(*) FROM jobs WHERE finished_at IS NOT NULL")
        return int(finished)

    def finish_times(self) -> list[float]:
        """When each job ended: seconds on the side's own clock, in order."""
        unit = 1000 if self.milliseconds else 1
        return [at / unit for (at,) in self._ask("SELECT finished_at FROM jobs WHERE finished_at > 0 ORDER BY 1")]

    def _ask(self, question: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database, timeout=30)) as database:
            return database.execute(question).fetchall()
