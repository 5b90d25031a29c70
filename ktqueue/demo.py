"""`make demo`: a stack of its own, and real prompts and sentences through it.

Shows what running them in batches was worth, and how a receiver of webhooks was told of each.
"""

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
from datetime import datetime
from pathlib import Path
from pydoc_data.topics import topics
from threading import Condition

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ktqueue.client import Client, Job, JobSpec
from ktqueue.errors import ConfigurationError
from ktqueue.receiver import Received, Receiver, Trust
from ktqueue.settings import PREFIX, Settings

CHAT, VECTORS = "smollm2-135m", "minilm-l6"
MAX_TOKENS = 32
SENTENCES = 256
ALONE = {CHAT: 4, VECTORS: 32}
"""How many of each are also run one at a time, each submitted when the one before has ended."""
START_S, FINISH_S, CALLBACK_S = 90.0, 300.0, 30.0
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


class Callbacks:
    """What a receiver was told: the event that ended each job, by the job's id, and why requests were refused."""

    def __init__(self) -> None:
        self.events: dict[str, Received] = {}
        self.refusals: list[str] = []
        self._changed = Condition()

    def take(self, event: Received) -> None:
        """Called for each event that is verified; one that comes again counts once."""
        with self._changed:
            self.events.setdefault(event.body["data"]["id"], event)
            self._changed.notify()

    def wait_for(self, jobs: Sequence[Job]) -> None:
        """Return once all these were told of, or it has taken too long."""
        with self._changed:
            self._changed.wait_for(lambda: all(job.id in self.events for job in jobs), timeout=CALLBACK_S)

    def delays_ms(self, jobs: Sequence[Job]) -> list[float]:
        """From the end of each job that was told of to its callback; both clocks are this machine's."""
        told = [self.events[job.id] for job in jobs if job.id in self.events]
        ends = [datetime.fromisoformat(event.body["data"]["finished_at"]).timestamp() for event in told]
        return [(event.at - end) * 1000 for event, end in zip(told, ends, strict=True)]


def demo(settings: Settings) -> int:
    """Run it; 0 only if every job succeeded and was told of. Raises ConfigurationError if the stack does not start."""
    with (
        tempfile.TemporaryDirectory(prefix="ktqueue-demo-") as home,
        Receiver() as receiver,
        _stack(settings, Path(home), receiver) as client,
    ):
        _warm(client)
        with _told(client, receiver) as callbacks:
            together = _together(client)
            outcomes = [_beside_alone(client, model, *together[model]) for model in (CHAT, VECTORS)]
            jobs = [job for outcome in outcomes for job in [*outcome.jobs, *outcome.alone]]
            callbacks.wait_for(jobs)
    _show_answers(outcomes[0].jobs)
    _show_figures(outcomes)
    _show_callbacks(outcomes, callbacks)
    wrong = complaints(jobs, callbacks)
    for complaint in wrong:
        console.print(f"[red]{complaint}")
    if not wrong:
        console.print("[green]every job succeeded, and a signed callback came for each")
    return 1 if wrong else 0


def complaints(jobs: Sequence[Job], callbacks: Callbacks) -> list[str]:
    """A line for everything that is not as it should be."""
    lost = [job for job in jobs if job.state != "succeeded"]
    return [
        *(f"{job.id} of {job.model} {job.state}: {job.error.message if job.error else ''}" for job in lost),
        *(f"no callback came for {job.id}" for job in jobs if job.id not in callbacks.events),
        *(f"the receiver refused a request: {why}" for why in callbacks.refusals),
    ]


@contextmanager
def _told(client: Client, receiver: Receiver) -> Iterator[Callbacks]:
    """The receiver is registered as an endpoint, and answers."""
    callbacks = Callbacks()
    endpoint = client.webhooks.create(receiver.url)
    assert endpoint.secret is not None, "who creates an endpoint is told its secret"
    trust = Trust([endpoint.secret], [key.whpk for key in client.webhooks.public_keys()])
    with receiver.serving(trust, callbacks.take, callbacks.refusals.append):
        yield callbacks


@contextmanager
def _stack(settings: Settings, home: Path, receiver: Receiver) -> Iterator[Client]:
    """`ktqueue up` on a free port with a home of its own, that may call the receiver; ended afterwards."""
    alone = {"home": home, "port": _free_port(), "redis_url": "", "database_url": "", "webhook_allow": receiver.place}
    own = settings.model_copy(update=alone)
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


def _show_callbacks(outcomes: Sequence[Outcome], callbacks: Callbacks) -> None:
    table = Table(title="how a receiver of webhooks was told", title_justify="left")
    for heading in ("model", "jobs", "callbacks verified", "finish to callback p50 ms", "one at a time p50 ms"):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=heading == "model")
    for outcome in outcomes:
        together, alone = callbacks.delays_ms(outcome.jobs), callbacks.delays_ms(outcome.alone)
        jobs = len(outcome.jobs) + len(outcome.alone)
        table.add_row(outcome.model, str(jobs), str(len(together) + len(alone)), _median(together), _median(alone))
    console.print(table)
    for event in list(callbacks.events.values())[-1:]:
        console.print(f"the last of them: {event}", highlight=False, soft_wrap=True)


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f}" if values else "–"
