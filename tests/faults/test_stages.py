"""A model spread over processes: one that is killed takes its slot down, and no job is lost or charged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.stack import PATIENCE_S, Stack, alive, running, until
from tests.support.tiny_models import byte_tokenizer, save_causal, tiny_llama

STAGE = "worker.engines.causal.pipeline"
JOBS = 24


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("stages")
    save_causal(tiny_llama(), folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    catalogue = f"""
    [models.tiny]
    engine = "causal"
    source = "path:{folder / "model"}"
    devices = [["cpu", "cpu"]]
    max_batch = 8
    threads = 1
    cache_gb = 0.01
    """
    # So long that nothing here comes back by its lease.
    with running(folder, models=catalogue, KTQ_LEASE_SECONDS="60") as started:
        ready(started)
        yield started


def ready(stack: Stack) -> None:
    """Wait for a slot with its stages: each imports torch, and layers are weighed, before the first step."""

    def lives() -> bool:
        told = stack.http.get("/api/v1/workers").json()["data"]
        return any(each["state"] == "ready" and psutil.pid_exists(each["pid"]) for each in told)

    until(lives, "a slot", 3 * PATIENCE_S)


def stages(stack: Stack) -> list[psutil.Process]:
    """In the order in which they were started, which is theirs."""
    found = [each for each in stack.find(STAGE) if alive(each)]
    return sorted(found, key=lambda each: each.create_time())


def texts(stack: Stack, jobs: list[str]) -> list[str]:
    done = [stack.finished(job) for job in jobs]
    assert [(each["state"], each["attempt"]) for each in done] == [("succeeded", 1)] * len(jobs)
    return [each["result"]["text"] for each in done]


def submit(stack: Stack) -> list[str]:
    return stack.bulk(
        [
            {
                "model": "tiny",
                "input": {"prompt": f"tea for {number}"},
                "params": {"max_tokens": 40, "ignore_eos": True},
            }
            for number in range(JOBS)
        ]
    )


@pytest.mark.parametrize("stage", [0, 1])
def test_a_killed_stage_costs_nothing_but_time(stack: Stack, stage: int) -> None:
    expected = texts(stack, submit(stack))

    jobs = submit(stack)
    until(lambda: any(stack.job(job)["state"] == "running" for job in jobs), "a job that runs")
    before = stages(stack)
    before[stage].kill()
    until(lambda: not any(alive(each) for each in before), "the end of the other stage")
    until(lambda: len(stages(stack)) == 2, "two new stages")
    ready(stack)
    assert texts(stack, jobs) == expected
    assert len(stages(stack)) == 2
    attempts = [stack.http.get(f"/api/v1/jobs/{job}/attempts").json()["data"] for job in jobs]
    outcomes = {(each["outcome"], each["charged"]) for one in attempts for each in one}
    assert outcomes == {("crashed", False), ("succeeded", True)}


def test_stages_end_with_their_slot(stack: Stack) -> None:
    before = stages(stack)
    psutil.Process(before[0].ppid()).kill()
    until(lambda: not any(alive(each) for each in before), "the end of its stages")
    until(lambda: len(stages(stack)) == 2, "two new stages")
    ready(stack)
    assert len(texts(stack, submit(stack))) == JOBS
