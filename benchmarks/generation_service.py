"""The generation engine through the whole service, HTTP, Redis, SQL and worker, and how much of its speed is left.

`python -m benchmarks.generation_service` on a machine with a GPU takes the model and the workload of
`benchmarks.generation`; without one, a small model and 16 requests. Both sides load the same folder and get the same
requests, once to warm up and then, with other prompts each, in every round. The engine alone is run first, in a process
of its own, so that its memory is free for the service. A round lasts from its first byte sent until the API says that
its last job has ended; the folder is in TMPDIR, where 17 GB have to fit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import torch
from transformers.utils.logging import disable_progress_bar

from benchmarks.figures import Figure, at_least_times, show
from benchmarks.processes import ROOT, clean_env, free_port, python, running
from benchmarks.random_models import CONTEXT, random_model, shape, word_tokenizer
from benchmarks.workload import Asked, at_once, drive, workload
from ktqueue.client import Client, JobSpec
from ktqueue.models import load_catalogue
from ktqueue.settings import Settings
from worker.engines.causal.engine import CausalEngine
from worker.engines.registry import load

MODEL = "random"
CONNECTIONS = 16
WARM_UP, IN_BULK, ONE_BY_ONE = 1, 2, 3
"""Seeds: no prompt of one round is known from another."""
LOAD_TIMEOUT_S = 300.0
POLL_S = 0.02
UNENDED = f"/api/v1/jobs?model={MODEL}&state=queued&state=running&limit=1"


@dataclass(frozen=True, slots=True)
class Rate:
    """What a round came to."""

    tokens: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Tokens of answers."""
        return self.tokens / self.seconds


def requests(seed: int) -> list[Asked]:
    """A round's."""
    large = torch.cuda.is_available()
    vocabulary = shape(large=large).vocab_size
    if large:
        return workload(vocabulary, seed=seed)
    return workload(vocabulary, 16, range(8, 129), range(8, 129), seed=seed)


def save(folder: Path) -> None:
    """The model, its tokenizer, and the catalogue that names them."""
    disable_progress_bar()
    large = torch.cuda.is_available()
    config = shape(large=large)
    dtype = torch.bfloat16 if large else torch.float32
    model = random_model(config, torch.device("cuda" if large else "cpu"), dtype)
    model.save_pretrained(folder, max_shard_size="4GB")
    word_tokenizer(config.vocab_size).save_pretrained(folder)
    entries = {
        "engine": "causal",
        "source": f"path:{folder}",
        "dtype": str(dtype).removeprefix("torch."),
        "max_batch": 256 if large else 16,
        "tokens_per_step": 8192 if large else 512,
        "context": CONTEXT if large else 512,
    }
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in entries.items()]
    (folder / "models.toml").write_text("".join([f"[models.{MODEL}]\n", *lines]), encoding="utf-8")


def alone(folder: Path) -> None:
    """Run the engine that the catalogue declares, without a service; print what the rounds came to as JSON."""
    spec = load_catalogue(folder / "models.toml")[MODEL]
    engine = load(spec, spec.places[0])
    assert isinstance(engine, CausalEngine)
    drive(engine, at_once(requests(WARM_UP)))
    runs = [drive(engine, at_once(requests(seed))) for seed in (IN_BULK, ONE_BY_ONE)]
    print(json.dumps([asdict(Rate(run.tokens, run.seconds)) for run in runs]))


def in_own_process(part: str, folder: Path) -> str:
    """Run a part of this file; what it printed. Its memory is free afterwards. Raises CalledProcessError."""
    command = python("benchmarks.generation_service", part, str(folder))
    return subprocess.run(command, cwd=ROOT, env=clean_env(), stdout=subprocess.PIPE, check=True, text=True).stdout


@contextmanager
def service(folder: Path, slots: int = 1) -> Iterator[str]:
    """The URL of `ktqueue up` with this catalogue, its model loaded. Raises RuntimeError if that dawdles."""
    settings = Settings(home=folder / "home", port=free_port(), models=folder / "models.toml")
    url, log = f"http://{settings.host}:{settings.port}", folder / "log"
    command = python("ktqueue.cli", "up")
    with running(command, settings.as_env(), log=log, ready=lambda: _is_ready(url)), Client(url) as client:
        until = time.monotonic() + LOAD_TIMEOUT_S
        while len(client.operator.workers()) < slots:
            if time.monotonic() > until:
                raise RuntimeError(f"the lane did not come up:\n{log.read_text(encoding='utf-8')[-4000:]}")
            time.sleep(POLL_S)
        yield url


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


def in_bulk(client: Client, jobs: Sequence[JobSpec]) -> list[str]:
    """Submit them in one request."""
    return [submitted.id or str(submitted.error) for submitted in client.submit_many(jobs)]


def one_by_one(client: Client, jobs: Sequence[JobSpec]) -> list[str]:
    """Submit each in a request of its own."""

    def submit(job: JobSpec) -> str:
        return client.submit(job["model"], job["input"], params=job["params"]).id

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(submit, jobs))


def through_service(url: str, asked: Sequence[Asked], submit: Callable[[Client, Sequence[JobSpec]], list[str]]) -> Rate:
    """A round. Raises RuntimeError if an answer is not as long as it was asked to be."""
    jobs: list[JobSpec] = [{"model": MODEL, "input": each.input, "params": each.params} for each in asked]
    with Client(url) as client, httpx.Client(base_url=url) as http:
        began = time.perf_counter()
        ids = submit(client, jobs)
        while http.get(UNENDED).raise_for_status().json()["data"]:
            time.sleep(POLL_S)
        seconds = time.perf_counter() - began
        for job_id, each in zip(ids, asked, strict=True):
            job = client.get(job_id)
            if job.usage is None or job.usage.completion_tokens != each.answer:
                raise RuntimeError(f"{job_id} was asked for {each.answer} tokens, and is {job.state}: {job.error}")
    return Rate(sum(each.answer for each in asked), seconds)


def measure(folder: Path) -> list[Figure]:
    """Output tokens per second, of the service and of the engine alone."""
    began = time.monotonic()
    in_own_process("save", folder)
    print(f"the model is saved after {time.monotonic() - began:.0f} s", flush=True)
    bulk_alone, single_alone = (Rate(**each) for each in json.loads(in_own_process("alone", folder).splitlines()[-1]))
    print(f"the engine alone has run after {time.monotonic() - began:.0f} s", flush=True)
    with service(folder) as url:
        print(f"the service is ready after {time.monotonic() - began:.0f} s", flush=True)
        through_service(url, requests(WARM_UP), in_bulk)
        bulk = through_service(url, requests(IN_BULK), in_bulk)
        single = through_service(url, requests(ONE_BY_ONE), one_by_one)
    return [
        at_least_times("one bulk submit, tokens/s", [bulk.per_second], [bulk_alone.per_second], 0.9),
        at_least_times(f"{CONNECTIONS} connections, tokens/s", [single.per_second], [single_alone.per_second], 0.9),
    ]


def main() -> None:
    """Measure; or one of the parts that this starts by itself, in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=("save", "alone"), help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        {"save": save, "alone": alone}[given.part](given.folder)
        return
    with TemporaryDirectory(prefix="ktq-bench-") as folder:
        show(measure(Path(folder)))


if __name__ == "__main__":
    main()
