"""The whole service in front of somebody else's server: kills, storms, and what is shown of it."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil

from tests.support.stack import Stack, running, until
from tests.support.upstreams import WELL, Asked, Manner, Upstream

SPEC = """
[models.there]
engine = "openai"
first_token_seconds = 5.0
rest_seconds = 0.5
[[models.there.instances]]
url = "{url}"
{more}

[models.echo]
engine = "echo"
"""


@contextmanager
def service(folder: Path, server: Upstream, more: str = "") -> Iterator[Stack]:
    with server.serving(), running(folder, models=SPEC.format(url=server.url, more=more)) as stack:
        yield stack


def slot_of(stack: Stack) -> psutil.Process:
    """The process that waits for the server: the child of its lane's worker."""
    return next(each for each in reversed(stack.find("worker lane there")))


def ask(stack: Stack, count: int) -> list[str]:
    return stack.bulk([{"model": "there", "input": {"prompt": f"job {number}"}} for number in range(count)])


def assert_all_right(stack: Stack, ids: list[str]) -> None:
    jobs = [stack.finished(job_id) for job_id in ids]
    assert [(job["state"], job["result"]) for job in jobs] == [
        ("succeeded", {"text": f"job {number}"[::-1], "finish_reason": "stop"}) for number in range(len(ids))
    ]


def test_a_slot_killed_in_the_middle_leaves_no_second_call_behind(tmp_path: Path) -> None:
    server = Upstream(lambda _: Manner(first_s=0.3, each_s=0.05), most=1, lingers_s=0.3)
    with service(tmp_path, server) as stack:
        ids = ask(stack, 6)
        for _ in range(2):
            until(server.now, "a call under way")
            slot_of(stack).send_signal(signal.SIGKILL)
            until(lambda: not server.now(), "the end of that call")
        assert_all_right(stack, ids)
    assert (server.breaches, server.at_once) == (0, 1)
    assert len(server.asked) > len(ids)


def test_in_a_storm_of_429_jobs_wait_uncharged_and_other_lanes_do_not_notice(tmp_path: Path) -> None:
    stormy = Manner(status=429, headers={"Retry-After": "1"})

    def manner(asked: Asked) -> Manner:
        return stormy if asked.number <= 3 else WELL

    server = Upstream(manner, most=1)
    with service(tmp_path, server) as stack:
        ids = ask(stack, 3)
        until(lambda: server.asked, "the first 429")
        waiting = until(lambda: (job := stack.job(ids[2]))["state"] == "queued" and job, "a job that waits again")
        assert waiting["position"] is not None
        assert stack.finished(stack.submit("echo", {"a": 1})["id"])["state"] == "succeeded"
        [lane] = [each for each in stack.http.get("/api/v1/lanes").json()["data"] if each["model"] == "there"]
        assert [(each["url"], each["jobs"], each["jobs_at_once"]) for each in lane["instances"]] == [(server.url, 1, 1)]
        assert_all_right(stack, ids)
        assert {stack.job(job_id)["attempt"] for job_id in ids} == {1}


def test_a_slot_that_ends_in_good_order_leaves_its_servers_to_the_next(tmp_path: Path) -> None:
    server = Upstream(most=4)
    with service(tmp_path, server, "concurrency = 4") as stack:
        assert_all_right(stack, ask(stack, 5))
        database = next(stack.home.glob("*.db"))
        with closing(sqlite3.connect(database)) as connection:
            assert len(connection.execute("SELECT name FROM leases").fetchall()) == 1
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT name FROM leases").fetchall() == []
