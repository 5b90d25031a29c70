"""Workers of another host: all that they share with the service are its database's address and its Redis'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import Stack, another_host, running, until

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


def workers(stack: Stack) -> list[dict[str, Any]]:
    return list(stack.http.get("/api/v1/workers").json()["data"])


def capacities(stack: Stack) -> list[tuple[str, int]]:
    return sorted((each["model"], each["capacity"]["jobs"]) for each in workers(stack) if each["state"] == "ready")


def test_a_worker_elsewhere_shares_the_work(stack: Stack, tmp_path: Path) -> None:
    until(lambda: capacities(stack) == [("echo", 2), ("quiet", 32)], "the slots of this host")
    with another_host(stack, tmp_path, THERE):
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
