"""Ours under the hammer: `ktqueue up` as it comes, or on servers that can be taken away, with a second worker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network
from pathlib import Path

import sqlalchemy as sa

from ktqueue.embedded import socket_path
from tests.chaos.dialect import Dialect, Ours
from tests.chaos.services import ALWAYS, WEBHOOKS, Progress, Role, Service
from tests.support import servers
from tests.support.mailbox import HOST
from tests.support.partition import Elsewhere, Place, elsewhere
from tests.support.stack import Stack

MODELS = """
[models.echo]
engine = "echo"
max_batch = 256
slots = 2
faults = true

[models.parked]
engine = "echo"
max_batch = 1
"""
"""``parked`` keeps what is queued there: its one slot is busy with one long job."""
LONG_MS = 600_000
A_BODY = 10_000
"""Jobs in one bulk submit."""

RUNNING = sa.text("SELECT id, claims FROM jobs WHERE state = 'running' AND worker LIKE '%:' || :pid || ':%'")
"""A worker is named ``host:pid:start:machine``."""
CARRIED = sa.text("SELECT count(*) FROM deliveries WHERE token IS NOT NULL AND sender LIKE '%:' || :pid || ':%'")
PROGRESS = sa.text("SELECT id, state, claims FROM jobs WHERE id IN :ids").bindparams(
    sa.bindparam("ids", expanding=True)
)

KILLS = frozenset({"child", "worker", "light", "beat", "api", "api worker", "all"})


class Ktqueue(Service):
    """``ktqueue up``, and perhaps a second worker."""

    name = "ktqueue"
    roles: Mapping[str, Role] = {
        "api": Role("-m api"),
        "api worker": Role("-m api", below=True),
        "worker": Role("-m worker lane echo"),
        "child": Role("-m worker lane echo", below=True),
        "light": Role("-m worker light"),
        "deliver": Role("-m worker deliver"),
        "deliver child": Role("-m worker deliver", below=True),
        "beat": Role("-m worker beat"),
        "valkey": Role("valkey-server"),
    }
    health = "/readyz"
    healthy = 200

    def __init__(self, stack: Stack, database_url: str, redis_url: str, *, lease_s: float, grace_s: float) -> None:
        super().__init__(stack.port, redis_url, lease_s=lease_s, grace_s=grace_s)
        self.dialect: Dialect = Ours()
        self.stack = stack
        self.second_worker: int | None = None
        self._database = sa.create_engine(database_url, pool_pre_ping=True)

    def kinds(self) -> frozenset[str]:
        """What this arrangement allows."""
        kills = {f"kill {role}" for role in KILLS | (set() if self.outside else {"valkey"})}
        restarts = {f"restart {server}" for server in self.outside}
        return ALWAYS | WEBHOOKS | kills | restarts | ({"cut worker"} if isinstance(self.place, Elsewhere) else set())

    def supervisors(self) -> list[int]:
        """That of `ktqueue up`, and that of the second worker."""
        return [self.stack.process.pid, *([] if self.second_worker is None else [self.second_worker])]

    def start(self) -> None:
        """``ktqueue up``, on what an earlier one has left."""
        self.stack.start()

    def held(self, pids: Sequence[int]) -> dict[str, int]:
        """By what their rows say."""
        found: dict[str, int] = {}
        with self._database.connect() as connection:
            for pid in pids:
                found |= {row.id: row.claims for row in connection.execute(RUNNING, {"pid": str(pid)})}
        return found

    def carried(self, pids: Sequence[int]) -> int:
        """By what their rows say."""
        with self._database.connect() as connection:
            return sum(connection.execute(CARRIED, {"pid": str(pid)}).scalar_one() for pid in pids)

    def progress(self, ids: Sequence[str]) -> dict[str, Progress]:
        """What their rows say."""
        with self._database.connect() as connection:
            rows = connection.execute(PROGRESS, {"ids": list(ids)})
            return {row.id: Progress(row.state, row.claims) for row in rows}

    def park(self, jobs: int) -> None:
        """Leave that many jobs waiting in a lane that does not move."""
        line = json.dumps({"model": "parked", "input": {}, "params": {"delay_ms": LONG_MS}}) + "\n"
        for at in range(0, jobs, A_BODY):
            body = line * min(A_BODY, jobs - at)
            answer = self.stack.http.post(
                "/api/v1/jobs:bulk", content=body, headers={"Content-Type": "application/x-ndjson"}
            )
            assert answer.status_code == 200, answer.text
            assert "error" not in answer.text

    def close(self) -> None:
        """Close the connections that only measured."""
        self._database.dispose()


@contextmanager
def embedded(folder: Path, *, lease_s: float, grace_s: float) -> Iterator[Ktqueue]:
    """``ktqueue up`` as it comes, on SQLite and its own Valkey, for as long as the block runs."""
    home = folder / "home"
    stack = Stack(home, _catalogue(folder), _settings(lease_s, grace_s))
    urls = (f"sqlite:///{home / 'ktqueue.db'}", f"unix://{socket_path(home)}")
    service = Ktqueue(stack, *urls, lease_s=lease_s, grace_s=grace_s)
    with _started(service):
        yield service


class NearEnd(Place):
    """This end of the cable to `Elsewhere`: where servers stand that a worker over there is to lose."""

    def __init__(self, far_end: Elsewhere) -> None:
        self.neighbours = far_end.neighbours
        self.address = str(next(ip_network(far_end.neighbours).hosts()))


@contextmanager
def distributed(folder: Path, *, lease_s: float, grace_s: float) -> Iterator[Ktqueue]:
    """On a PostgreSQL and a Valkey of their own, with one more worker, in a network of its own where root may."""
    with ExitStack() as running:
        place = running.enter_context(elsewhere())
        here = NearEnd(place) if isinstance(place, Elsewhere) else Place()
        valkey = running.enter_context(servers.valkey(here))
        postgres = running.enter_context(servers.postgres(here))
        urls = {"KTQ_DATABASE_URL": postgres.url, "KTQ_REDIS_URL": valkey.url}
        stack = Stack(folder / "home", _catalogue(folder), _settings(lease_s, grace_s) | urls)
        database_url = postgres.url.replace("://", "+psycopg://", 1)
        service = Ktqueue(stack, database_url, valkey.url, lease_s=lease_s, grace_s=grace_s)
        service.place = place
        service.outside = {"valkey": valkey, "postgres": postgres}
        running.enter_context(_started(service))
        service.second_worker = running.enter_context(_second_worker(stack, place))
        yield service


@contextmanager
def _started(service: Ktqueue) -> Iterator[None]:
    try:
        service.start()
        yield
    finally:
        service.close()
        service.stack.stop()


@contextmanager
def _second_worker(stack: Stack, place: Place) -> Iterator[int]:
    """``ktqueue worker echo`` over there; the pid of its supervisor."""
    command, _ = place.inside([sys.executable, "-m", "ktqueue.cli", "worker", "echo"])
    with stack.log.open("ab") as log:
        process = subprocess.Popen(command, env=stack.env, stdout=log, stderr=log)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def _catalogue(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    catalogue = folder / "models.toml"
    catalogue.write_text(MODELS, encoding="utf-8")
    return catalogue


def _settings(lease_s: float, grace_s: float) -> dict[str, str]:
    return {
        "KTQ_LEASE_SECONDS": str(lease_s),
        "KTQ_HEARTBEAT_SECONDS": str(lease_s / 4),
        "KTQ_GRACE_SECONDS": str(grace_s),
        "KTQ_WEBHOOK_ALLOW": HOST,
    }
