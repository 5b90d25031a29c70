"""Ledgers: how the processes that count share one folder of numbers, and what becomes of them when one dies.

A process that counts takes the first ledger that nobody has, and keeps its numbers in the files of that ledger, which
are prometheus-client's. It holds a lock on it until it ends, however it ends, for the kernel lets go of that. Whoever
takes the ledger next goes on with the same files: what was counted stays counted, and there are never more files than
processes ran at once. What the dead one had told of itself is deleted.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Names, in a process's environment, the folder that it counts in; prometheus-client reads it, too."""
LONGEST = 65_536
"""Bytes of what is written about one ledger; a few hundred is usual."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a process is: ``api``, ``lane``, ``light`` or ``deliver``; and the model it holds, if it is a lane's."""

    process: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that lives."""

    pid: int
    role: Role


@dataclass(frozen=True, slots=True)
class Survey:
    """Who lives, how often processes of each role died in this folder, and the files whose numbers count."""

    living: list[Holder]
    crashes: Mapping[Role, int]
    files: list[str]


class Ledger:
    """Where this process counts. ``number`` is its own among those that live."""

    def __init__(self, number: str, descriptor: int, crashes: Counter[Role]) -> None:
        self.number = number
        self._descriptor = descriptor
        self._crashes = crashes

    def close(self) -> None:
        """Who has it is about to end in good order, and keeps it until then."""
        _write(self._descriptor, None, self._crashes)


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for this process and those that it starts from here on; they learn of it by their environment."""
    folder = tempfile.mkdtemp(prefix="ktqueue-metrics-")
    os.environ[FOLDER] = folder
    try:
        yield Path(folder)
    finally:
        del os.environ[FOLDER]
        shutil.rmtree(folder, ignore_errors=True)


def empty(folder: Path) -> None:
    """Make a folder anew; nobody may count in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)


def take(folder: Path, role: Role) -> Ledger:
    """A ledger for this process, which must not fork after this."""
    with _alone(folder):
        for number in itertools.count():
            path = folder / f"{number}.ledger"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not _lock(descriptor):
                os.close(descriptor)
                continue
            crashes = _clear(path, descriptor)
            _write(descriptor, Holder(os.getpid(), role), crashes)
            return Ledger(str(number), descriptor, crashes)
    raise AssertionError("numbers have no end")


def survey(folder: Path) -> Survey:
    """How things are now; what the dead have left is put in order on the way."""
    living: list[Holder] = []
    crashes: Counter[Role] = Counter()
    with _alone(folder):
        for path in folder.glob("*.ledger"):
            with _opened(path) as descriptor:
                if _lock(descriptor):
                    crashes += _clear(path, descriptor)
                    continue
                holder, counted = _read(descriptor)
                crashes += counted
                living += [holder] if holder is not None else []
    return Survey(living, crashes, [str(path) for path in folder.glob("*.db") if _has_numbers(path)])


def _has_numbers(path: Path) -> bool:
    """A file is empty for a moment when it is made; and one of gauges may be gone, for others survey, too."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody takes or surveys meanwhile: for a moment a survey holds the ledgers of the dead, as the living do."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear(path: Path, descriptor: int) -> Counter[Role]:
    """Of a ledger that is locked and nobody's: if who had it has not closed it, he died. How often that was, in all."""
    holder, crashes = _read(descriptor)
    for gauges in path.parent.glob(f"gauge_*_{path.stem}.db"):
        gauges.unlink()
    if holder is not None:
        crashes[holder.role] += 1
        _write(descriptor, None, crashes)
    return crashes


def _read(descriptor: int) -> tuple[Holder | None, Counter[Role]]:
    told = os.pread(descriptor, LONGEST, 0).partition(b"\n")[0]
    if not told:
        return None, Counter()
    known: dict[str, Any] = orjson.loads(told)
    holder = None if known["pid"] is None else Holder(known["pid"], Role(*known["role"]))
    return holder, Counter({Role(*role): times for role, times in known["crashes"]})


def _write(descriptor: int, holder: Holder | None, crashes: Counter[Role]) -> None:
    """In one go: a process may be killed between any two."""
    known = {
        "pid": None if holder is None else holder.pid,
        "role": None if holder is None else (holder.role.process, holder.role.model),
        "crashes": [((role.process, role.model), times) for role, times in crashes.items()],
    }
    os.pwrite(descriptor, orjson.dumps(known) + b"\n", 0)
