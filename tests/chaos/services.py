"""What the harness asks of a service, whichever it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import httpx
import psutil
import redis

from tests.chaos.dialect import Dialect
from tests.chaos.history import TERMINAL
from tests.support.partition import Place
from tests.support.servers import Server
from tests.support.stack import alive

ALWAYS = frozenset({"stop child", "stop worker", "term worker", "flushall"})
"""Faults that any service with a worker and a broker can be put through."""
WEBHOOKS = frozenset({"kill deliver", "kill deliver child", "term deliver", "receiver down"})
"""Those of a service that tells webhooks."""


@dataclass(frozen=True, slots=True)
class Role:
    """Processes a supervisor started whose command line holds ``words``; or, if ``below``, the children of those."""

    words: str
    below: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the row of a job has come."""

    state: str
    claims: int

    def moved_on(self, claims: int) -> bool:
        """Whether it has ended, or was claimed again, since it had so many claims."""
        return self.state in TERMINAL or self.claims > claims


class Service(ABC):
    """A running service, and its processes by role.

    ``outside`` are servers that nobody supervises: who takes one away brings it back. ``place`` is where the worker
    runs that can be cut off.
    """

    name: str
    dialect: Dialect
    roles: Mapping[str, Role]
    health: str
    """A path that is answered with ``healthy`` while the service serves."""
    healthy: int

    def __init__(self, port: int, redis_url: str, *, lease_s: float, grace_s: float) -> None:
        self.port = port
        self.lease_s = lease_s
        self.grace_s = grace_s
        self.place = Place()
        self.outside: dict[str, Server] = {}
        self._redis_url = redis_url

    @abstractmethod
    def supervisors(self) -> list[int]:
        """Pids of what starts its processes; the first is the one that `start` started."""

    @abstractmethod
    def start(self) -> None:
        """Start it, at first or after `kill`; return once it serves."""

    @abstractmethod
    def kinds(self) -> frozenset[str]:
        """The faults that its arrangement allows."""

    def kill(self) -> None:
        """SIGKILL for its supervisor and then for all that it started; return once they are gone."""
        supervisor = psutil.Process(self.supervisors()[0])
        family = [supervisor, *supervisor.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs([process for process in family if alive(process)], timeout=30)

    def processes(self, role: str) -> list[psutil.Process]:
        """The living processes of a role, oldest first."""
        found = [process for pid in self.supervisors() for process in _children(pid, self.roles[role])]
        return sorted(filter(alive, found), key=lambda process: (process.create_time(), process.pid))

    def redis(self) -> redis.Redis:
        """A client of the broker."""
        return redis.Redis.from_url(self._redis_url, socket_timeout=2.0)

    def ready(self) -> bool:
        """Whether it would serve a client now."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{self.health}", timeout=5.0).status_code == self.healthy
        except httpx.TransportError:
            return False

    def held(self, _pids: Sequence[int]) -> dict[str, int]:
        """The jobs that run in these processes, each with its count of claims. Empty where nobody can tell.

        Read behind the service's back: only to measure how long a recovery takes, never to judge.
        """
        return {}

    def progress(self, _ids: Sequence[str]) -> dict[str, Progress]:
        """How far these have come; to measure, as above."""
        return {}

    def carried(self, _pids: Sequence[int]) -> int:
        """How many deliveries these processes are about; to measure, as above."""
        return 0

    def park(self, jobs: int) -> None:
        """Leave that many jobs waiting in a lane that does not move; for a service that has such a thing."""
        raise NotImplementedError

    def memory_mb(self) -> dict[str, float]:
        """Proportional set size of each role; what its processes share is counted once (Linux tells it)."""
        sizes = {role: sum(map(_pss, self.processes(role))) for role in self.roles}
        return {role: size / 1e6 for role, size in sizes.items() if size}


def _children(pid: int, role: Role) -> list[psutil.Process]:
    found = []
    try:
        for process in psutil.Process(pid).children():
            if role.words in " ".join(process.cmdline()):
                found += process.children() if role.below else [process]
    except psutil.NoSuchProcess:
        return []  # one of them died while we looked; whoever asks, asks again
    return found


def _pss(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0.0
