"""`make demo`: a stack of its own, real prompts and sentences through it in batches, and what batching was worth."""

from __future__ import annotations

import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ktqueue.client import Client, Job, JobSpec
from ktqueue.errors import ConfigurationError
from ktqueue.settings import PREFIX, Settings

CHAT, VECTORS = "smollm2-135m", "minilm-l6"
MAX_TOKENS = 32
SENTENCES = 256
ALONE = {CHAT: 4, VECTORS: 32}
"""How many of each are also run one at a time, each submitted when the one before has ended."""
START_S, FINISH_S = 90.0, 300.0
SUBJECTS = (
    *("the sea", "a train", "winter", "bread", "the moon", "a violin", "rain", "chess"),
    *("a lighthouse", "coffee", "a library", "the desert", "bees", "a bridge", "fog", "an old clock"),
)

console = Console()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Jobs of one model, all together and one at a time, in seconds of wall time."""

    model: str
    jobs: Sequence[Job]
    together_s: float
    alone: Sequence[Job]
    alone_s: float

    @property
    def gain(self) -> float:
        """How many times as many jobs a second it is to run them together."""
        return (len(self.jobs) / self.together_s) / (len(self.alone) / self.alone_s)


def demo(settings: Settings) -> int:
    """Run it; 0 only if every job succeeded. Raises ConfigurationError if the stack does not start."""
    with tempfile.TemporaryDirectory(prefix="ktqueue-demo-") as home, _stack(settings, Path(home)) as client:
        _warm(client)
        together = _together(client)
        outcomes = [_beside_alone(client, model, *together[model]) for model in (CHAT, VECTORS)]
    _show_answers(outcomes[0].jobs)
    _show_figures(outcomes)
    lost = [job for outcome in outcomes for job in [*outcome.jobs, *outcome.alone] if job.state != "succeeded"]
    for job in lost:
        console.print(f"[red]{job.id} of {job.model} {job.state}: {job.error.message if job.error else ''}")
    console.print("[red]not every job succeeded" if lost else "[green]every job succeeded")
    return 1 if lost else 0


@contextmanager
def _stack(settings: Settings, home: Path) -> Iterator[Client]:
    """`ktqueue up` on a free port with a home of its own; ended afterwards."""
    own = settings.model_copy(update={"home": home, "port": _free_port(), "redis_url": "", "database_url": ""})
    environment = {**os.environ, **own.as_env(), f"{PREFIX}LOG_LEVEL": "warning"}
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ktqueue.cli", "up"], env=environment, stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{own.port}"
        with console.status("starting the API, the workers and their models …"):
            _wait_until_ready(process, url, log)
        with Client(url) as client:
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while True:
        if process.poll() is not None or time.monotonic() > until:
            raise ConfigurationError(f"the stack did not start: {log.read_text(errors='replace').strip()}")
        try:
            if httpx.get(f"{url}/readyz").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _warm(client: Client) -> None:
    """One job each, so that nobody is measured while a model is still being loaded."""
    with console.status("loading models …"):
        for spec in (_prompt("bread"), _sentence("Bread is baked.")):
            client.result(client.submit(spec["model"], spec["input"], params=spec["params"]), timeout=FINISH_S)


def _together(client: Client) -> dict[str, tuple[list[Job], float]]:
    """Everything in bulk, at once; for each model its jobs in the order given and how long they took."""
    done: dict[str, tuple[list[Job], float]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for model, specs in ((CHAT, _prompts()), (VECTORS, _sentences())):
            bar = progress.add_task(f"{len(specs)} jobs for {model}", total=len(specs))
            began = time.monotonic()
            ids = [submitted.id or "" for submitted in client.submit_many(specs)]
            finished: dict[str, Job] = {}
            for job in client.as_completed(ids, timeout=FINISH_S):
                finished[job.id] = job
                progress.advance(bar)
            done[model] = [finished[job_id] for job_id in ids], time.monotonic() - began
    return done


def _beside_alone(client: Client, model: str, jobs: list[Job], together_s: float) -> Outcome:
    specs = (_prompts() if model == CHAT else _sentences())[: ALONE[model]]
    began = time.monotonic()
    with console.status(f"{len(specs)} jobs for {model}, one at a time …"):
        alone = [client.wait(client.submit(model, s["input"], params=s["params"], wait=60), FINISH_S) for s in specs]
    return Outcome(model, jobs, together_s, alone, time.monotonic() - began)


def _prompt(subject: str) -> JobSpec:
    text = f"Write one sentence about {subject}."
    return {
        "model": CHAT,
        "input": {"messages": [{"role": "user", "content": text}]},
        "params": {"max_tokens": MAX_TOKENS},
    }


def _prompts() -> list[JobSpec]:
    return [_prompt(subject) for subject in SUBJECTS]


def _sentence(text: str) -> JobSpec:
    return {"model": VECTORS, "input": {"text": text}, "params": {}}


def _sentences() -> list[JobSpec]:
    """Real prose of very different lengths that every Python carries: its own language reference."""
    prose = re.sub(r"\s+", " ", " ".join(topics[name] for name in sorted(topics)))
    sentences = [s for s in re.split(r"(?<=[.!?]) ", prose) if re.fullmatch(r"[A-Z][^*|+=]{20,600}\.", s)]
    step = len(sentences) // SENTENCES
    return [_sentence(text) for text in sentences[:: max(1, step)][:SENTENCES]]


def _show_answers(jobs: Sequence[Job]) -> None:
    table = Table("prompt", "answer", title=f"what {CHAT} wrote", title_justify="left")
    for job in jobs:
        table.add_row(job.input["messages"][0]["content"], " ".join((job.text or "").split()))
    console.print(table)


def _show_figures(outcomes: Sequence[Outcome]) -> None:
    table = Table(title="how they ran", title_justify="left")
    for heading in ("model", "jobs", "largest batch", "queued p50 ms", "run p50 ms", "jobs/s", "alone jobs/s", "gain"):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=heading == "model")
    for outcome in outcomes:
        timings = [job.timing for job in outcome.jobs]
        table.add_row(
            outcome.model,
            str(len(outcome.jobs)),
            str(max(timing.largest_batch or 0 for timing in timings)),
            f"{statistics.median(timing.queued_ms or 0 for timing in timings):.0f}",
            f"{statistics.median(timing.run_ms or 0 for timing in timings):.0f}",
            f"{len(outcome.jobs) / outcome.together_s:.1f}",
            f"{len(outcome.alone) / outcome.alone_s:.1f}",
            f"{outcome.gain:.1f} ×",
        )
    console.print(table)
