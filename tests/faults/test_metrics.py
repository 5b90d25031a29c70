"""What a real stack counts, of jobs on all kinds of engines; and what a kill -9 does to it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeAlias

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ktqueue.embedded import socket_path
from ktqueue.job import JsonObject
from tests.support.stack import Stack, free_port, running, until

pytestmark = pytest.mark.timeout(240)

Labels: TypeAlias = frozenset[tuple[str, str]]
MODELS = """
[models.echo]
engine = "echo"
faults = true

[models.chat]
engine = "causal"
source = "path:{causal}"
threads = 1
max_batch = 4
cache_gb = 0.001

[models.vectors]
engine = "encoder"
source = "path:{encoder}"
threads = 1
"""
DIFFERENT = ["a", "a longer one than that"]


class Counted:
    """What /metrics said at one moment."""

    def __init__(self, text: str) -> None:
        samples = [sample for metric in text_string_to_metric_families(text) for sample in metric.samples]
        self._values: dict[tuple[str, Labels], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value for sample in samples
        }
        self.names = {name for name, _ in self._values}

    def __call__(self, name: str, **labels: str) -> float:
        return self._values.get((f"ktqueue_{name}", frozenset(labels.items())), 0.0)


def counted(stack: Stack) -> Counted:
    answer = stack.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    return Counted(answer.text)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    from tests.support.tiny_models import save_causal, save_encoder, tiny_llama

    folder = tmp_path_factory.mktemp("metrics")
    models = MODELS.format(
        causal=save_causal(tiny_llama(), folder / "causal"), encoder=save_encoder(folder / "encoder")
    )
    allow = {"KTQ_WEBHOOK_ALLOW": "127.0.0.1", "KTQ_HEARTBEAT_SECONDS": "0.5"}
    with running(folder, models=models, **allow) as started:
        yield started


def all_told(now: Counted, chat: JsonObject, vectors: JsonObject) -> bool:
    """Whether the slots have told of these jobs to their ends: a heartbeat in the middle of one tells a part."""
    return (
        now("generated_tokens_total", model="chat") == chat["completion_tokens"]
        and now("kv_blocks_used", model="chat") == 0
        and now("prompt_tokens_total", model="vectors") == vectors["prompt_tokens"]
        and now("attempt_seconds_count", model="echo") == 4
    )


def test_every_family_of_a_job_that_ran_has_a_sensible_value(stack: Stack) -> None:
    webhook = {"url": f"http://127.0.0.1:{free_port()}/nobody"}
    jobs = [
        stack.submit("echo", {"say": "hi"}, webhook=webhook),
        stack.submit("echo", {"say": "no"}, params={"fail": "permanent"}),
        stack.submit("echo", {"say": "again"}, params={"fail": "retryable"}, max_attempts=2),
        stack.submit("chat", {"prompt": "hello"}, params={"max_tokens": 20, "ignore_eos": True}),
        stack.submit("vectors", {"texts": DIFFERENT}),
    ]
    ended = [stack.finished(job["id"]) for job in jobs]
    assert [job["state"] for job in ended] == ["succeeded", "failed", "failed", "succeeded", "succeeded"]
    chat, vectors = (job["usage"] for job in ended[3:])
    # A slot tells of its engine with its heartbeat, and a delivery may take a moment.
    until(lambda: all_told(counted(stack), chat, vectors), "all that the slots counted")
    until(lambda: counted(stack)("padding_tokens_total", model="vectors"), "padding")
    until(lambda: counted(stack)("deliveries_total", answer="none"), "a delivery that nobody took")
    now = counted(stack)

    assert now("attempts_total", model="echo", outcome="succeeded") == 1
    assert now("attempts_total", model="echo", outcome="failed") == 2
    assert now("attempts_total", model="echo", outcome="retried") == now("retries_total", model="echo") == 1
    assert now("job_queue_seconds_count", model="echo") == 3
    assert now("attempt_seconds_count", model="echo") == 4
    assert now("step_jobs_sum", model="chat") == now("step_seconds_count", model="chat") >= 20
    assert now("time_to_first_token_seconds_count", model="chat") == 1
    assert now("time_between_tokens_seconds_count", model="chat") >= 1
    assert now("prompt_tokens_total", model="chat") == chat["prompt_tokens"]
    assert now("generated_tokens_total", model="chat") == chat["completion_tokens"] == 20
    assert now("prompt_tokens_total", model="vectors") == vectors["prompt_tokens"]
    assert now("padding_tokens_total", model="vectors") == len(DIFFERENT[1]) - len(DIFFERENT[0])
    assert now("kv_blocks", model="chat") > now("kv_blocks_used", model="chat") == 0
    assert now("repairs_total", kind="woken") >= 1
    assert now("slots", model="chat") == now("redis_up") == now("database_up") == 1
    assert now("http_request_seconds_count", method="POST", route="/api/v1/jobs", status="2xx") == 5
    for role, model in (("api", ""), ("light", ""), ("deliver", ""), ("lane", "chat")):
        assert now("processes", process=role, model=model) >= 1
        assert now("process_resident_memory_bytes", process=role, model=model) > 10_000_000
        assert now("crashes_total", process=role, model=model) == 0


def crashed(stack: Stack, times: int) -> bool:
    """Whether so many crashes are told, and a slot that lives."""
    now, lane = counted(stack), {"process": "lane", "model": "chat"}
    return (now("crashes_total", **lane), now("processes", **lane)) == (times, 1)


def test_a_slot_that_is_killed_leaves_what_it_counted_and_no_ghost(stack: Stack) -> None:
    earlier = counted(stack)("generated_tokens_total", model="chat")
    job = stack.finished(stack.submit("chat", {"prompt": "hello"}, params={"max_tokens": 4})["id"])
    tokens = earlier + job["usage"]["completion_tokens"]
    until(lambda: counted(stack)("generated_tokens_total", model="chat") == tokens, "its tokens")
    before = counted(stack)
    folder = stack.home / "metrics"
    files = {path.name for path in folder.iterdir()}
    for kills in range(1, 4):
        child = psutil.Process(stack.find("worker lane chat")[0].pid).children()[0]
        child.send_signal(signal.SIGKILL)
        until(partial(crashed, stack, kills), "a crash, and another slot")
    until(lambda: counted(stack)("kv_blocks", model="chat"), "what the new one holds")
    after = counted(stack)

    assert after("kv_blocks", model="chat") == before("kv_blocks", model="chat")
    assert after("attempt_seconds_count", model="chat") == before("attempt_seconds_count", model="chat")
    assert after("generated_tokens_total", model="chat") == before("generated_tokens_total", model="chat")
    assert {path.name for path in folder.iterdir()} <= files | {"counter_0.db"}


@pytest.mark.parametrize(("number", "crashes"), [(signal.SIGTERM, 0), (signal.SIGKILL, 1)])
def test_a_light_worker_that_ends_in_good_order_has_not_crashed(
    stack: Stack, number: signal.Signals, crashes: int
) -> None:
    [light] = stack.find("worker light")
    light.send_signal(number)
    light.wait(15)
    until(lambda: counted(stack)("processes", process="light", model="") == 1, "another")

    assert counted(stack)("crashes_total", process="light", model="") == crashes


@contextmanager
def alone(stack: Stack, port: int, *command: str) -> Iterator[None]:
    """One role beside the stack, on its Redis and its database, that tells of itself at this port."""
    env = stack.env | {"KTQ_METRICS_PORT": str(port), "KTQ_REDIS_URL": f"unix://{socket_path(stack.home)}"}
    process = subprocess.Popen([sys.executable, "-m", "ktqueue.cli", *command], env=env)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_a_role_that_runs_alone_serves_its_own(stack: Stack) -> None:
    port = free_port()
    with alone(stack, port, "worker", "echo"):
        there = until(lambda: text_of(port), "a worker that tells of itself")
        now = Counted(there)
        assert now("processes", process="lane", model="echo") == 1
        assert now("processes", process="api", model="") == 0
        assert "ktqueue_slots" not in now.names
    with alone(stack, port, "light"):
        until(lambda: "ktqueue_repairs_total" in (text_of(port) or ""), "a light worker that tells of itself")


def text_of(port: int) -> str | None:
    """What is served there once a process has its ledger."""
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    except httpx.TransportError:
        return None
    return text if "ktqueue_processes{" in text else None
