"""Starting, stopping and being killed, as an operator sees it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support.stack import Stack, free_port, running, until

pytestmark = pytest.mark.timeout(240)


def family_is_complete(stack: Stack) -> bool:
    """Wait until every role runs, its children too, so that ending them all is worth testing."""
    return all(
        stack.find(role)
        for role in ("-m api", "-m worker lane", "-m worker light", "-m worker deliver", "-m worker beat")
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ending_the_supervisor_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as stack:
        stack.finished(stack.submit("echo", {"n": 1})["id"])
        until(lambda: family_is_complete(stack), "every role")
        assert len(stack.family()) >= 8
        stack.signal(number)
        stack.process.wait(15)
        until(stack.gone, "the end of every process", 15)
        left = {path.name for path in stack.home.iterdir()}
        kept = {"ktqueue.db", "ktqueue.db-wal", "ktqueue.db-shm", "metrics", "redis.log", "redis.sock", "secret.key"}
        assert left <= kept
        if number is not signal.SIGKILL:
            assert stack.process.returncode == 0
            assert "redis.sock" not in left
            assert "Traceback" not in stack.said()


def test_a_second_start_finds_the_earlier_jobs(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        done = stack.finished(stack.submit("echo", {"n": 1})["id"])
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        waiting = stack.submit("echo", {"n": 2}, run_at=tomorrow.isoformat())
        stack.signal(signal.SIGTERM)
        stack.process.wait(15)
        stack.start()
        assert stack.job(done["id"])["result"] == {"n": 1}
        assert stack.job(waiting["id"])["state"] == "queued"


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose processes are killed; its leases are short, so that the tests are too."""
    folder = tmp_path_factory.mktemp("mortal")
    with running(folder, KTQ_LEASE_SECONDS="2", KTQ_HEARTBEAT_SECONDS="0.5") as started:
        yield started


@pytest.mark.parametrize(
    "role", ["-m api", "-m worker lane", "-m worker light", "-m worker deliver", "-m worker beat", "valkey-server"]
)
def test_a_role_that_is_killed_comes_back_and_jobs_flow(mortal: Stack, role: str) -> None:
    mortal.finished(mortal.submit("echo", {"n": 0})["id"])
    victims = until(lambda: [each for each in mortal.find(role) if each.is_running()], f"a process of {role}")
    jobs = mortal.bulk([{"model": "echo", "input": {"n": n}, "params": {"delay_ms": 300}} for n in range(40)])
    victims[0].kill()
    for n, job in enumerate(jobs):
        until(partial(succeeded, mortal, job), f"job {n} of 40 after the death of {role}")
    assert [mortal.job(job)["result"] for job in jobs] == [{"n": n} for n in range(40)]


def succeeded(stack: Stack, job: str) -> bool:
    try:
        return bool(stack.job(job)["state"] == "succeeded")
    except httpx.TransportError:
        return False


def test_a_worker_child_killed_in_mid_job_costs_the_job_no_attempt(mortal: Stack) -> None:
    job = mortal.submit("echo", {"n": 1}, params={"delay_ms": 3_000})
    until(lambda: mortal.job(job["id"])["state"] == "running", "a running job")
    parent = min((each for each in mortal.find("-m worker lane") if each.is_running()), key=lambda each: each.pid)
    for child in parent.children(recursive=True):
        child.kill()
    done = mortal.finished(job["id"])
    assert (done["state"], done["attempt"]) == ("succeeded", 1)


def refused(**env: str) -> str:
    """What ``ktqueue up`` says when it refuses to start."""
    done = subprocess.run(
        [sys.executable, "-m", "ktqueue.cli", "up"], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


def test_what_keeps_it_from_starting_is_said_in_one_line(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    catalogue = tmp_path / "models.toml"
    catalogue.write_text('[models.far]\nengine = "causal"\nsource = "path:/nowhere/at/all"\n')
    file = tmp_path / "file"
    file.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in refused(KTQ_HOME=home, KTQ_PORT=port)
    assert "KTQ_HOME" in refused(KTQ_HOME=str(file))
    assert "/nowhere/at/all" in refused(KTQ_HOME=home, KTQ_MODELS=str(catalogue))
    assert "KTQ_PROT" in refused(KTQ_HOME=home, KTQ_PROT="8000")
    assert "ktqueue keys create --admin" in refused(KTQ_HOME=home, KTQ_HOST="0.0.0.0")


def test_two_stacks_do_not_share_a_home(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        assert "another ktqueue" in refused(KTQ_HOME=str(stack.home), KTQ_PORT=str(free_port()))
