"""A lane in front of other people's servers, when those fail, are slow, take one at a time, or do all of that at once.

The servers are ours, and only wait; what is measured is the service between them and its clients: API, Redis, database,
sweep, and one slot. Jobs come in over HTTP by the thousand.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import mean

import httpx

from benchmarks.figures import Figure, at_least, at_least_times
from benchmarks.load import HOST
from benchmarks.ours import Ours
from benchmarks.processes import python, running
from tests.support.upstreams import WELL, Asked, Manner, Upstream

LANE = "there"
TOKENS = 20
PERCENT = 90
FOUR_TIMES = 3.8
LONGEST_S = 1_200.0
LOOK_S = 0.05
MOST = 8
"""Requests at once that a server takes which takes several."""


def measure(*, quick: bool) -> list[Figure]:
    """Three services, one after the other."""
    return [
        *_one_killed_one_slow(120 if quick else 480),
        *_one_at_a_time(20 if quick else 60),
        *_ill_behaved(300 if quick else 10_000),
    ]


def _one_killed_one_slow(jobs: int) -> list[Figure]:
    """Three servers, the second four times slower, the third killed after a while.

    Allowed is what their places can answer, at the pace at which each did, from the first request until nine of ten
    jobs have ended; after that places stay empty, for want of jobs.
    """
    well, slow, gone = (Upstream(_pace(each_s), most=MOST) for each_s in (0.05, 0.2, 0.05))
    with _service([well, slow, gone]) as (side, port):
        _submit(port, jobs)
        _until(lambda: side.finished() >= jobs // 4)
        killed_at = time.monotonic()
        gone.take_away()
        _until(lambda: side.finished() >= jobs * 9 // 10)
        ended_at = time.monotonic()
        finished = side.finished()
        _until(lambda: side.finished() == jobs)
        wrong = _wrong(side, jobs)
    began = min(server.began_at[0] for server in (well, slow, gone))
    spans = [(well, ended_at), (slow, ended_at), (gone, killed_at)]
    allowed = sum(MOST * (until - began) / mean(server.took[: 4 * MOST]) for server, until in spans)
    return [
        at_least("3 servers, 1 killed, 1 slow: % of what the living can", [100 * finished / allowed], 90),
        _none("the same: jobs lost or wrong", wrong),
    ]


def _none(what: str, count: int) -> Figure:
    return Figure(what, count, target="0", met=count == 0)


def _pace(each_s: float) -> Callable[[Asked], Manner]:
    return lambda _: Manner(each_s=each_s)


def _one_at_a_time(jobs: int) -> list[Figure]:
    """The same work for each server, once for one and once for four of them."""
    rates, breaches = [], 0
    for count in (1, 4):
        servers = [Upstream(_pace(0.025), most=1) for _ in range(count)]
        with _service(servers) as (side, port):
            _submit(port, jobs * count)
            _until(partial(_all_ended, side, jobs * count))
            ended_at = time.monotonic()
            breaches += _wrong(side, jobs * count)
        rates.append(jobs * count / (ended_at - min(server.began_at[0] for server in servers)))
        breaches += sum(server.breaches for server in servers)
    return [
        at_least_times("one at a time: 4 servers (other: 1), jobs/s", rates[1:], rates[:1], FOUR_TIMES),
        _none("the same: second calls, jobs lost or wrong", breaches),
    ]


TROUBLE: Sequence[Manner] = (
    Manner(end="reset"),
    Manner(end="reset", tokens=3),
    Manner(end="close", tokens=3),
    Manner(end="nonsense", tokens=3),
    Manner(end="error", tokens=3),
    Manner(end="dropped", tokens=3),
    Manner(end="hang"),
    Manner(end="hang", tokens=3),
    Manner(status=500),
    Manner(status=503),
    Manner(status=429, headers={"Retry-After": "1"}),
    Manner(status=429),
    Manner(first_s=1.5),
    Manner(body={"answer": 42}),
)


def _ill_behaved(jobs: int) -> list[Figure]:
    """Every fortieth request to each of six servers is ill-treated, in all ways; four of them take one at a time."""

    def manner(asked: Asked) -> Manner:
        return WELL if asked.number % 40 else TROUBLE[asked.number // 40 % len(TROUBLE)]

    singles = [Upstream(manner, most=1, lingers_s=0.1) for _ in range(4)]
    servers = [*singles, *(Upstream(manner, most=MOST) for _ in range(2))]
    with _service(servers) as (side, port):
        _submit(port, jobs)
        began = time.monotonic()
        _until(lambda: side.finished() == jobs)
        seconds = time.monotonic() - began
        wrong, states = _wrong(side, jobs), side.tally().states
    asked = sum(len(server.asked) for server in servers)
    print(f"upstreams: ill-behaved servers were asked {asked:,} times for {jobs:,} jobs: {dict(states)}", flush=True)
    breaches = sum(server.breaches for server in singles)
    return [
        Figure(f"{jobs:,} jobs for 6 ill-behaved servers, jobs/s", jobs / seconds),
        _none("the same: jobs that did not end rightly", wrong),
        _none("the same: second calls to a server that takes one at a time", breaches),
    ]


@contextmanager
def _service(servers: Sequence[Upstream]) -> Iterator[tuple[Ours, int]]:
    """Everything but supervision, in front of ``servers``; the port of its API."""
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server.serving())
        side = stack.enter_context(Ours.open())
        instances = "".join(
            f'[[models.{LANE}.instances]]\nurl = "{server.url}"\nconcurrency = {server.most}\n' for server in servers
        )
        spec = f'[models.{LANE}]\nengine = "openai"\nfirst_token_seconds = 1.0\nrest_seconds = 0.2\n{instances}'
        (side.home / "models.toml").write_text(spec, encoding="utf-8")
        port = stack.enter_context(side.serving())
        stack.enter_context(side.tended())
        stack.enter_context(running(python("worker", "lane", LANE), side.settings().as_env(), log=side.log))
        yield side, port


def _submit(port: int, jobs: int) -> None:
    lines = [
        json.dumps({"model": LANE, "input": {"prompt": _prompt(number)}, "params": {"max_tokens": TOKENS}}) + "\n"
        for number in range(jobs)
    ]
    with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=60.0) as client:
        content = {"Content-Type": "application/x-ndjson"}
        answer = client.post("/api/v1/jobs:bulk", content="".join(lines), headers=content).raise_for_status()
    if '"error"' in answer.text:
        raise RuntimeError(f"not all jobs were taken: {answer.text[:500]}")


def _prompt(number: int) -> str:
    return f"{number:0{TOKENS}d}"


def _wrong(side: Ours, jobs: int) -> int:
    """Jobs that have not ended, have another's answer, or failed for anything but their servers' fault."""
    rows = side.ended()
    right = sum(
        bool(result["text"] == _input["prompt"][::-1] if state == "succeeded" else error["code"] == "upstream_error")
        for state, _input, result, error in rows
    )
    return jobs - right


def _all_ended(side: Ours, jobs: int) -> bool:
    return side.finished() == jobs


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONGEST_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"jobs have not ended after {LONGEST_S:.0f} s")
        time.sleep(LOOK_S)
