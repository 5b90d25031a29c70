"""A worker's roster: the models that it serves, and how its supervisor, which reads no database, hears of it."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Collection, Mapping, Sequence

WORKER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
CHUNK = 65_536


def named(worker_name: str) -> str:
    """What a worker is called whose setting says this."""
    return worker_name or socket.gethostname()


def roster(catalogue: Sequence[str], begun_with: Collection[str], orders: Mapping[str, bool]) -> list[str]:
    """Those of ``catalogue`` that are to be served: what was ordered counts, else what the worker was begun with."""
    return [model for model in catalogue if orders.get(model, model in begun_with)]


def word_of(models: Sequence[str]) -> bytes:
    """A roster as it goes through the pipe: a line, begun anew in case that the one before was torn."""
    return b"\n" + json.dumps(models).encode() + b"\n"


class Ear:
    """A pipe of which a child of ours has the ``mouth``. The last word counts; each is a whole roster."""

    def __init__(self) -> None:
        self._ear, self.mouth = os.pipe()
        os.set_blocking(self._ear, False)
        self._heard = b""

    def news(self) -> list[str] | None:
        """The roster as told last, if something was told since this was asked; never waits."""
        try:
            told = os.read(self._ear, CHUNK)
        except BlockingIOError:
            return None
        *lines, self._heard = (self._heard + told).split(b"\n")
        rosters = [models for line in lines if (models := _read(line)) is not None]
        return rosters[-1] if rosters else None


def _read(line: bytes) -> list[str] | None:
    """None is a line that whoever wrote it did not live to end: its successor says it again."""
    try:
        models: list[str] = json.loads(line)
    except ValueError:
        return None
    return models
