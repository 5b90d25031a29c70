"""Generation over HTTP: `ktqueue up` against `transformers serve --continuous-batching`, the same weights on a CPU.

Sixteen clients send one request each at the same moment and wait for its answer; both services have answered the same
requests before. One service runs at a time, and they take turns. What `transformers serve` needs is not among our
dependencies: `pip install "transformers[serving]"`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import httpx

from benchmarks import up
from benchmarks.figures import Figure, at_least_times
from benchmarks.load import HOST
from benchmarks.mixed import Asked, PlainCausal, workload
from benchmarks.processes import free_port, listens, python, running
from ktqueue.models import load_catalogue
from ktqueue.settings import Settings

MODEL = "smollm2-135m"
NEEDS = ("fastapi", "uvicorn", "accelerate", "openai")
WAIT_S = 60
TIMEOUT_S = 600.0

Answer: TypeAlias = tuple[str, int]
"""A text, and how many tokens it has."""

Ask: TypeAlias = Callable[[httpx.Client, Asked], Answer]


def measure(*, quick: bool) -> list[Figure]:
    """Tokens per second of both services."""
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        print(f'serve: not measured, for want of {", ".join(missing)}: pip install "transformers[serving]"')
        return []
    asked = workload()
    ours: list[float] = []
    theirs: list[float] = []
    with TemporaryDirectory(prefix="ktq-bench-serve-") as folder:
        _save(Path(folder))
        for _ in range(1 if quick else 3):
            with _ours(Path(folder)) as (url, ask):
                our_texts, rate = _rate(url, ask, asked)
                ours.append(rate)
            with _theirs(Path(folder)) as (url, ask):
                their_texts, rate = _rate(url, ask, asked)
                theirs.append(rate)
    same = sum(mine == other for mine, other in zip(our_texts, their_texts, strict=True))
    print(f"serve: {same} of {len(asked)} texts are the same", flush=True)
    return [at_least_times("16 at once over HTTP, tokens/s, against transformers serve", ours, theirs, 1.5)]


def _save(folder: Path) -> None:
    """The weights for the other service, and the catalogue for ours."""
    PlainCausal(load_catalogue(Settings().models)[MODEL]).save(folder / MODEL)
    source = load_catalogue(Settings().models)[MODEL].source
    entry = f'[models.{MODEL}]\nengine = "causal"\nsource = "{source}"\ndevice = "cpu"\ntokens_per_step = 512\n'
    (folder / "models.toml").write_text(entry, encoding="utf-8")


def _rate(url: str, ask: Ask, asked: Sequence[Asked]) -> tuple[list[str], float]:
    """Texts, and tokens per second of the second time. Raises RuntimeError if they are not as many as asked for."""
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client, ThreadPoolExecutor(len(asked)) as threads:
        for _ in range(2):
            began = time.perf_counter()
            answers = list(threads.map(lambda each: ask(client, each), asked))
            seconds = time.perf_counter() - began
    tokens = [count for _, count in answers]
    if tokens != [each.answer for each in asked]:
        raise RuntimeError(f"{url}: answers of {tokens} tokens; asked for were {[each.answer for each in asked]}")
    return [text for text, _ in answers], sum(tokens) / seconds


@contextmanager
def _ours(folder: Path) -> Iterator[tuple[str, Ask]]:
    with up.ktqueue(models=folder / "models.toml") as service:
        yield f"http://{HOST}:{service.port}", _ask_ours


def _ask_ours(client: httpx.Client, asked: Asked) -> Answer:
    body = {"model": MODEL, "task": "generate", "input": {"prompt": asked.prompt}, "params": asked.params}
    job = client.post("/api/v1/jobs", json=body, headers={"Prefer": f"wait={WAIT_S}"}).raise_for_status().json()
    while job["state"] in {"queued", "running"}:
        job = client.get(f"/api/v1/jobs/{job['id']}", params={"wait": WAIT_S}).raise_for_status().json()
    if job["state"] != "succeeded":
        raise RuntimeError(f"ktqueue: {job}")
    return job["result"]["text"], len(job["result"]["tokens"])


@contextmanager
def _theirs(folder: Path) -> Iterator[tuple[str, Ask]]:
    port, model = free_port(), str(folder / MODEL)
    options = ["--continuous-batching", "--device", "cpu", "--dtype", "float32", "--host", HOST, "--port", str(port)]
    command = python("transformers.cli.transformers", "serve", model, *options)
    # It shares our setting of OpenMP, which helps it beside the clients.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    with running(command, environment, log=folder / "serve.log", ready=lambda: listens(port)):
        yield f"http://{HOST}:{port}", lambda client, asked: _ask_theirs(client, model, asked)


def _ask_theirs(client: httpx.Client, model: str, asked: Asked) -> Answer:
    """The saved model has no end tokens, so `max_tokens` is what is computed; it knows no `ignore_eos`."""
    body = {"model": model, "prompt": asked.prompt, "max_tokens": asked.answer, "temperature": 0}
    answer = client.post("/v1/completions", json=body).raise_for_status().json()
    return answer["choices"][0]["text"], answer["usage"]["completion_tokens"]
