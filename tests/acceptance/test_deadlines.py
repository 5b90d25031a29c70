"""A job that can no longer make its deadline is not kept waiting for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.stack import Stack, running, until

ONE_AT_A_TIME = """
[models.echo]
engine = "echo"
max_batch = 1
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("deadlines"), models=ONE_AT_A_TIME) as started:
        yield started


def test_what_is_too_late_expires_at_once_and_the_others_run(stack: Stack) -> None:
    # A unit of cost is a millisecond of delay, so of this much no more is known than that it takes as long as it says.
    short = stack.bulk([{"model": "echo", "input": {}, "params": {"delay_ms": 200}} for _ in range(40)])
    until(lambda: stack.finished(short[3]), "some that have ended, while others wait")
    late = stack.submit("echo", {}, params={"delay_ms": 60_000}, deadline_seconds=15)
    good = stack.submit("echo", {"n": 1}, params={"delay_ms": 200}, deadline_seconds=600)

    expired = stack.finished(late["id"])
    assert (expired["state"], expired["attempt"]) == ("expired", 0)
    assert expired["finished_at"] < expired["deadline_at"]
    assert stack.http.get(f"/api/v1/jobs/{late['id']}/attempts").json()["data"] == []
    assert stack.finished(good["id"])["result"] == {"n": 1}
    assert {stack.finished(job_id)["state"] for job_id in short} == {"succeeded"}
