"""Workers of another host: all that they share with the service are its database's address and its Redis'."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ktqueue.embedded import socket_path
from tests.support.stack import Stack, running, until

HERE = """
[models.echo]
engine = "echo"
max_batch = 2

[models.quiet]
engine = "echo"
"""
THERE = """
[models.echo]
engine = "echo"
devices = ["cpu", "cpu"]
max_batch = 4
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("here"), models=HERE) as started:
        yield started


@contextmanager
def another_host(stack: Stack, folder: Path) -> Iterator[None]:
    """``ktqueue worker`` with a home and a catalogue of its own."""
    catalogue = folder / "models.toml"
    catalogue.write_text(THERE)
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("KTQ_")},
        "KTQ_HOME": str(folder / "home"),
        "KTQ_MODELS": str(catalogue),
        "KTQ_DATABASE_URL": f"sqlite:///{stack.home / 'ktqueue.db'}",
        "KTQ_REDIS_URL": f"unix://{socket_path(stack.home)}",
    }
    process = subprocess.Popen([sys.executable, "-m", "ktqueue.cli", "worker"], env=env)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 0


def workers(stack: Stack) -> list[dict[str, Any]]:
    return list(stack.http.get("/api/v1/workers").json()["data"])


def capacities(stack: Stack) -> list[tuple[str, int]]:
    return sorted((each["model"], each["capacity"]["jobs"]) for each in workers(stack))


def test_a_worker_elsewhere_shares_the_work(stack: Stack, tmp_path: Path) -> None:
    until(lambda: capacities(stack) == [("echo", 2), ("quiet", 32)], "the slots of this host")
    with another_host(stack, tmp_path):
        until(lambda: capacities(stack) == [("echo", 2), ("echo", 4), ("echo", 4), ("quiet", 32)], "all slots")
        jobs = stack.bulk([{"model": "echo", "input": {"n": n}, "params": {"delay_ms": 200}} for n in range(60)])

        assert [stack.finished(job)["result"] for job in jobs] == [{"n": n} for n in range(60)]
        told = [stack.http.get(f"/api/v1/jobs/{job}/attempts").json()["data"] for job in jobs]
        assert {len(each) for each in told} == {1}
        names = {each["name"] for each in workers(stack) if each["model"] == "echo"}
        assert {each[0]["worker"] for each in told} == names
        waiting = stack.bulk([{"model": "echo", "input": {"n": n}, "params": {"delay_ms": 300}} for n in range(40)])
    assert {stack.finished(job)["state"] for job in waiting} == {"succeeded"}
    assert not (tmp_path / "home" / "ktqueue.db").exists()
