"""Redis and the database are really taken away from a real stack, under load, and brought back.

How long it takes until jobs flow again is told beside its bar at the end of the run (``Measured``), and judged by
whoever reads it: a test that failed for it would fail on any machine that has a slow moment.

``KTQ_TEST_OUTAGE_S`` makes the outages of Redis and of the network longer, for whoever has the time.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
import redis

from tests.support.load import Load, every_job_succeeds, load, seconds_to_flow
from tests.support.measured import Measured
from tests.support.partition import Elsewhere, Place, elsewhere
from tests.support.servers import Server, postgres, valkey
from tests.support.stack import Stack, running, until

OUTAGE_S = float(os.environ.get("KTQ_TEST_OUTAGE_S", "4"))
REDIS_BAR_S = 3.0
SUBMIT_BAR_S = 0.5
SQL_BAR_S = 5.0
HANG_S = 4.0
LOCKED_S = 10.0
NOTICED_BAR_S = 10.0
CUT_S = 5.0
"""Long enough to be noticed on both sides."""
DISK_MB = 48


def long_jobs(stack: Stack, seconds: float) -> dict[str, dict[str, int]]:
    """Jobs that a worker holds for so long, from now on."""
    inputs = [{"held": number} for number in range(5)]
    params = {"delay_ms": int(seconds * 1000)}
    jobs = {stack.submit("echo", each, params=params)["id"]: each for each in inputs}
    until(lambda: all(stack.job(job_id)["state"] == "running" for job_id in jobs), "jobs that run")
    return jobs


def all_say_when_to_come_back(seen: Load) -> bool:
    return {(answer.status, answer.retry_after) for answer in seen.refused()} == {(503, "2")}


# --- Redis, and a database in a file ---------------------------------------------------------------------------


@contextmanager
def small_disk() -> Iterator[Path | None]:
    """A file system of DISK_MB; None where this user may not mount one."""
    with tempfile.TemporaryDirectory(prefix="ktq-") as name:
        if (
            sys.platform != "linux"
            or subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", name], capture_output=True, check=False
            ).returncode
        ):
            yield None
            return
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


@pytest.fixture(scope="module")
def disk() -> Iterator[Path | None]:
    with small_disk() as path:
        yield path


@pytest.fixture(scope="module")
def database(disk: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return (disk or tmp_path_factory.mktemp("disk")) / "ktqueue.db"


@pytest.fixture(scope="module")
def broker() -> Iterator[Server]:
    with valkey(Place()) as server:
        yield server


@pytest.fixture(scope="module")
def stack(database: Path, broker: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("sqlite")
    with running(folder, KTQ_DATABASE_URL=f"sqlite:///{database}", KTQ_REDIS_URL=broker.url) as stack:
        yield stack


def test_without_redis_every_submit_is_accepted_and_it_flows_again_at_once(
    stack: Stack, broker: Server, measured: Measured
) -> None:
    held = long_jobs(stack, OUTAGE_S / 2)
    with load(stack) as seen:
        broker.take_away()
        time.sleep(OUTAGE_S)
        broker.start()
        flowing_s = seconds_to_flow(stack, time.monotonic())

    assert seen.refused() == []
    measured("Redis was gone: jobs flow again", flowing_s, bar_s=REDIS_BAR_S)
    every_job_succeeds(stack, seen.accepted | held)
    assert {stack.job(job_id)["attempt"] for job_id in held} == {1}
    measured(
        "Redis was gone: a submit, median", statistics.median(each.took_s for each in seen.answers), bar_s=SUBMIT_BAR_S
    )


def test_a_redis_that_hangs_leaves_no_worker_deaf(stack: Stack, broker: Server, measured: Measured) -> None:
    held = long_jobs(stack, HANG_S / 2)
    with load(stack) as seen:
        # The drain ends meanwhile, and its bell is acknowledged to a server that takes nothing in.
        broker.send(signal.SIGSTOP)
        time.sleep(HANG_S)
        broker.send(signal.SIGCONT)
        flowing_s = seconds_to_flow(stack, time.monotonic())

    assert seen.refused() == []
    measured("Redis hung: jobs flow again", flowing_s, bar_s=REDIS_BAR_S)
    every_job_succeeds(stack, seen.accepted | held)


def test_a_redis_that_is_emptied_again_and_again_loses_nothing(
    stack: Stack, broker: Server, measured: Measured
) -> None:
    with load(stack) as seen, redis.Redis.from_url(broker.url) as client:
        for _ in range(20):
            seen.wait(accepted=10)
            client.flushall()
        flowing_s = seconds_to_flow(stack, time.monotonic())

    assert seen.refused() == []
    measured("Redis was emptied: jobs flow again", flowing_s, bar_s=REDIS_BAR_S)
    every_job_succeeds(stack, seen.accepted)


def test_a_locked_database_refuses_clearly_is_still_read_and_recovers(
    stack: Stack, database: Path, measured: Measured
) -> None:
    known = stack.submit("echo", {})["id"]
    held = long_jobs(stack, LOCKED_S / 2)
    reads: list[float] = []
    with load(stack, clients=80) as seen, closing(sqlite3.connect(database, isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN IMMEDIATE")
        locked, accepted = time.monotonic(), len(seen.accepted)
        while time.monotonic() < locked + LOCKED_S:
            began = time.monotonic()
            stack.job(known)
            reads.append(time.monotonic() - began)
            time.sleep(0.1)
        others_writes = len(seen.accepted) - accepted
        other.execute("ROLLBACK")
        flowing_s = seconds_to_flow(stack, time.monotonic())

    assert others_writes <= 80, "accepted while nobody could write"
    assert all_say_when_to_come_back(seen)
    measured("SQLite was locked: jobs flow again", flowing_s, bar_s=SQL_BAR_S)
    assert len(reads) > LOCKED_S, "reads starve"
    every_job_succeeds(stack, seen.accepted | held)
    intact(database)


def test_a_full_disk_refuses_clearly_and_recovers(
    stack: Stack, database: Path, disk: Path | None, measured: Measured
) -> None:
    if disk is None:
        pytest.skip("needs a user who may mount a small file system")
    with load(stack, padding="x" * 100_000) as seen:
        filler = disk / "filler"
        fill(filler)
        seen.wait(refused=20)
        filler.unlink()
        flowing_s = seconds_to_flow(stack, time.monotonic())

    assert all_say_when_to_come_back(seen)
    measured("the disk was full: jobs flow again", flowing_s, bar_s=SQL_BAR_S)
    every_job_succeeds(stack, seen.accepted)
    intact(database)


def fill(path: Path) -> None:
    """Write until there is no room at all."""
    with path.open("wb", buffering=0) as file:
        for size in (1_000_000, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def intact(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# --- PostgreSQL and Redis, in a network of their own -----------------------------------------------------------


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with elsewhere() as place:
        yield place


@pytest.fixture(scope="module")
def database_server(place: Place) -> Iterator[Server]:
    with postgres(place) as server:
        yield server


@pytest.fixture(scope="module")
def far_broker(place: Place) -> Iterator[Server]:
    with valkey(place) as server:
        yield server


@pytest.fixture(scope="module")
def far_stack(database_server: Server, far_broker: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("postgres")
    with running(folder, KTQ_DATABASE_URL=database_server.url, KTQ_REDIS_URL=far_broker.url) as stack:
        yield stack


def test_postgresql_restarts_under_load(far_stack: Stack, database_server: Server, measured: Measured) -> None:
    held = long_jobs(far_stack, 2.0)
    with load(far_stack, clients=8) as seen:
        for how in (signal.SIGINT, signal.SIGQUIT):
            seen.wait(accepted=100)
            database_server.take_away(how)
            seen.wait(refused=20)
            database_server.start()
            measured(
                "PostgreSQL restarted: jobs flow again", seconds_to_flow(far_stack, time.monotonic()), bar_s=SQL_BAR_S
            )

    assert all_say_when_to_come_back(seen)
    every_job_succeeds(far_stack, seen.accepted | held)


def test_a_network_that_drops_every_packet_is_noticed_and_recovered_from(
    far_stack: Stack, place: Place, measured: Measured
) -> None:
    if not isinstance(place, Elsewhere):
        pytest.skip("needs a user who may make a network namespace")
    held = long_jobs(far_stack, OUTAGE_S / 2)
    with load(far_stack, clients=8) as seen:
        seen.wait(accepted=50)
        place.cut()
        cut = time.monotonic()
        seen.wait(refused=1)
        noticed_s = seen.refused()[0].at - cut
        time.sleep(max(0.0, cut + OUTAGE_S - time.monotonic()))
        assert httpx.get(f"{far_stack.url}/healthz", timeout=5.0).status_code == 200
        place.heal()
        flowing_s = seconds_to_flow(far_stack, time.monotonic())

    measured("the network was cut: noticed", noticed_s, bar_s=NOTICED_BAR_S)
    assert all_say_when_to_come_back(seen)
    measured("the network was cut: jobs flow again", flowing_s, bar_s=SQL_BAR_S)
    every_job_succeeds(far_stack, seen.accepted | held)


@pytest.fixture(scope="module")
def doors(place: Place) -> dict[str, str]:
    """By server the address that one worker alone reaches it at."""
    if not isinstance(place, Elsewhere):
        pytest.skip("needs a user who may make a network namespace")
    return dict(zip(("broker", "database"), place.doors, strict=True))


@pytest.fixture(scope="module")
def other_worker(
    place: Place, doors: dict[str, str], database_server: Server, far_broker: Server, far_stack: Stack
) -> Iterator[psutil.Process]:
    """One more worker, which alone goes through the doors."""
    environment = {
        **far_stack.env,
        "KTQ_REDIS_URL": far_broker.url.replace(place.address, doors["broker"]),
        "KTQ_DATABASE_URL": database_server.url.replace(place.address, doors["database"]),
        "KTQ_GRACE_SECONDS": "1",
    }
    command = [sys.executable, "-m", "ktqueue.cli", "worker", "echo"]
    with far_stack.log.open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(10)


def held_by(worker: psutil.Process, stack: Stack, seconds: float) -> dict[str, dict[str, int]]:
    """A job that this worker runs for so long. Bells go round, so others may have been rung for first."""

    def tried() -> dict[str, dict[str, int]] | None:
        job_id = stack.submit("echo", {"held": 1}, params={"delay_ms": int(seconds * 1000)})["id"]
        attempts = f"/api/v1/jobs/{job_id}/attempts"
        runner = until(lambda: stack.http.get(attempts).json()["data"], "a job that runs")[0]["worker"]
        if int(runner.rsplit(":", 3)[1]) in {child.pid for child in worker.children(recursive=True)}:
            return {job_id: {"held": 1}}
        stack.http.post(f"/api/v1/jobs/{job_id}/cancel")
        return None

    return dict(until(tried, f"a job for the other worker:\n{stack.said()[-3000:]}"))


@pytest.mark.parametrize("lost", ["broker", "database"])
def test_a_worker_that_loses_one_server_alone_holds_nobody_up(
    far_stack: Stack,
    place: Elsewhere,
    *,
    doors: dict[str, str],
    other_worker: psutil.Process,
    lost: str,
    measured: Measured,
) -> None:
    held = held_by(other_worker, far_stack, CUT_S / 2)
    with load(far_stack) as seen:
        place.cut(doors[lost])
        cut = time.monotonic()
        flowing_s = seconds_to_flow(far_stack, cut)
        time.sleep(max(0.0, cut + CUT_S - time.monotonic()))
        place.heal(doors[lost])
        held |= held_by(other_worker, far_stack, 0.5)

    assert seen.refused() == []
    measured(f"one worker lost {lost}: jobs flow again", flowing_s, bar_s=SQL_BAR_S)
    every_job_succeeds(far_stack, seen.accepted | held)
    assert {far_stack.job(job_id)["attempt"] for job_id in held} == {1}
