"""The generation engine alone, on whatever device there is: correct first, then how fast, and what each part is worth.

`python -m benchmarks.generation` on a machine with a GPU takes a random model of Qwen3-8B's shape in bfloat16; without
one, a small model in float32. The workload is 256 requests, prompts of 32-512 tokens, answers of 32-256 (uniform, seed
0), greedy, none of which ends early. All times are of the wall clock.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PretrainedConfig

from benchmarks.random_models import CONTEXT, random_model, shape, shape_with_experts, word_tokenizer
from benchmarks.workload import Asked, at, at_once, drive, workload
from ktqueue.errors import ConfigurationError
from ktqueue.models import ModelSpec
from worker.engines.base import Failed, Finished
from worker.engines.causal.building import build
from worker.engines.causal.engine import CausalEngine
from worker.engines.causal.flight import Fetching, Landed
from worker.engines.causal.graphs import Graphs, Result
from worker.engines.causal.prompt import PromptReader
from worker.engines.causal.step import Step
from worker.engines.loading import voice


@contextmanager
def waiting_counted() -> Iterator[list[float]]:
    """How long the host waits for the device, call by call."""
    waits: list[float] = []
    land = Fetching.land

    def timed(flight: Fetching) -> Landed:
        began = time.perf_counter()
        if flight._done:
            flight._done.synchronize()
        waits.append(time.perf_counter() - began)
        return land(flight)

    Fetching.land = timed  # type: ignore[assignment,method-assign]
    try:
        yield waits
    finally:
        Fetching.land = land  # type: ignore[method-assign]


@contextmanager
def padding_counted() -> Iterator[list[tuple[int, int]]]:
    """Of each step that is replayed its rows, and the size of its graph. Other steps have no padding."""
    steps: list[tuple[int, int]] = []
    replay = Graphs.replay

    def counted(graphs: Graphs, step: Step, *rest: Any) -> Result:
        steps.append((len(step.slots), graphs._bucket(len(step.slots))))
        return replay(graphs, step, *rest)

    Graphs.replay = counted  # type: ignore[assignment,method-assign]
    try:
        yield steps
    finally:
        Graphs.replay = replay  # type: ignore[method-assign]


class Bench:
    """One model, and engines of it."""

    def __init__(self, *, quick: bool) -> None:
        self.large = torch.cuda.is_available() and not quick
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = torch.bfloat16 if self.large else torch.float32
        self.config: PretrainedConfig = shape(large=self.large)
        self.tokenizer = word_tokenizer(self.config.vocab_size)
        self.slots = 256 if self.large else 16

    def engine(self, config: PretrainedConfig | None = None, **entries: Any) -> CausalEngine:
        """A new model in a new engine; the last one's memory is free again."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        slots = entries.pop("max_batch", self.slots)
        budget = entries.pop("tokens_per_step", 8192 if self.large else 512)
        spec = ModelSpec.model_validate(
            {
                "alias": "m",
                "engine": "causal",
                "source": "path:.",
                "max_batch": slots,
                "tokens_per_step": budget,
                **entries,
            }
        )
        model = random_model(config or self.config, self.device, self.dtype)
        return build(spec, model, PromptReader(self.tokenizer, CONTEXT), voice(model, self.tokenizer))

    def decode_step(self, engine: CausalEngine, batch: int, context: int = 400, steps: int = 40) -> tuple[float, float]:
        """Milliseconds a step takes when so many decode around this context, and of these, the host's own."""
        with waiting_counted() as waits:
            took = decode_times(engine, self.config.vocab_size, batch, context, steps)
        own = [whole - wait for whole, wait in zip(took, waits[-len(took) :], strict=True)]
        return statistics.median(took) * 1000, statistics.median(own) * 1000


def decode_times(engine: CausalEngine, vocabulary: int, batch: int, context: int, steps: int = 40) -> list[float]:
    """Seconds that steps take while so many decode around this context."""
    asked = workload(vocabulary, batch, range(context - 32, context - 31), range(steps + 24, steps + 25))
    for number, each in enumerate(asked):
        engine.submit(each.request(number))
    while len(engine._scheduler.running) < batch or not all(each.decodes for each in engine._scheduler.running):
        engine.step()
    for _ in range(4):
        engine.step()
    took = []
    for _ in range(steps - 10):
        began = time.perf_counter()
        engine.step()
        took.append(time.perf_counter() - began)
    for number in range(batch):
        engine.cancel(str(number))
    return took


def check(device: torch.device) -> str:
    """Greedy answers in float32 are those of `generate`, and an answer in a batch is the answer alone."""
    config = shape(large=False)
    tokenizer = word_tokenizer(config.vocab_size)
    plain, model = (random_model(shape(large=False), device, torch.float32) for _ in range(2))
    spec = ModelSpec(alias="m", engine="causal", source="path:.", max_batch=8, tokens_per_step=96, cache_gb=0.2)
    engine = build(spec, model, PromptReader(tokenizer, 512), voice(model, tokenizer))
    asked = workload(config.vocab_size, 16, range(4, 120), range(4, 24))
    results: dict[str, Any] = {}
    for number, each in enumerate(asked):
        while not engine.capacity():
            _collect(engine, results)
        engine.submit(each.request(number))
        _collect(engine, results)
    while len(results) < len(asked):
        _collect(engine, results)
    equal = 0
    for number, each in enumerate(asked):
        ids = torch.tensor([each.prompt], device=device)
        generate: Any = plain.generate
        with torch.inference_mode():
            right = generate(ids, max_new_tokens=each.answer, do_sample=False, eos_token_id=None)[0, ids.shape[1] :]
        equal += right.tolist() == results[str(number)]["tokens"]
    if equal != len(asked):
        raise SystemExit(f"float32: only {equal} of {len(asked)} answers are those of generate")
    return f"float32 on {device.type}: {equal} of {len(asked)} answers are those of generate"


def _collect(engine: CausalEngine, results: dict[str, Any]) -> None:
    for output in engine.step():
        if isinstance(output, Failed):
            raise SystemExit(output.error.message)
        if isinstance(output, Finished):
            results[output.id] = output.result


def steps(bench: Bench, engine: CausalEngine, label: str) -> None:
    """What a decode step takes."""
    for batch in (1, 64, 256) if bench.large else (1, 8, 16):
        whole, own = bench.decode_step(engine, batch)
        print(
            f"{label}: decode step, batch {batch}, context 400: {whole:.2f} ms, of these the host {own:.2f}", flush=True
        )


def whole(bench: Bench, engine: CausalEngine, label: str) -> None:
    """The workload, after another one of the same kind has warmed everything up."""
    warm, asked = (
        workload(bench.config.vocab_size, seed=seed)
        if bench.large
        else workload(bench.config.vocab_size, 16, range(8, 129), range(8, 129), seed)
        for seed in (1, 0)
    )
    drive(engine, at_once(warm))
    with padding_counted() as steps:
        run = drive(engine, at_once(asked))
    prompts = sum(len(each.prompt) for each in asked)
    filled = sum(size - rows for rows, size in steps)
    print(f"{label}: {prompts} prompt tokens; {run.line()}", flush=True)
    print(f"{label}: {filled / (prompts + run.tokens + filled):.1%} of all that was computed is padding", flush=True)
    if bench.device.type == "cuda":
        print(f"{label}: peak memory {torch.cuda.max_memory_allocated() / 1e9:.1f} GB", flush=True)


def prompts_alone(bench: Bench, engine: CausalEngine, label: str) -> None:
    """How fast prompts are read, one token of answer each."""
    asked = workload(bench.config.vocab_size, 64 if bench.large else 8, range(512, 513), range(1, 2), seed=2)
    run = drive(engine, at_once(asked))
    print(f"{label}: {sum(len(each.prompt) for each in asked) / run.seconds:.0f} prompt tokens/s", flush=True)


def four(bench: Bench, engine: CausalEngine) -> None:
    """Four at once against one after the other."""
    asked = workload(bench.config.vocab_size, 4, range(200, 201), range(128, 129))
    alone = sum(drive(engine, at_once([each])).seconds for each in asked)
    together = drive(engine, at_once(asked)).seconds
    print(f"4 at once against one after the other: {alone / together:.2f} x", flush=True)


def bursts(bench: Bench) -> None:
    """64 long prompts arrive over 16 that run: what the 16 wait for a token meanwhile, with chunks and without."""
    p99 = []
    for label, budget in (("chunks of 1,024", 1024), ("whole prompts", 64 * 1024)):
        engine = bench.engine(max_batch=128, tokens_per_step=budget)
        running = workload(bench.config.vocab_size, 16, range(64, 65), range(400, 401))
        burst = workload(bench.config.vocab_size, 64, range(512, 1025), range(16, 17), seed=1)
        drive(engine, at_once(workload(bench.config.vocab_size, 80, range(64, 1025), range(4, 5), seed=2)))
        requests = [(0, each.request(number)) for number, each in enumerate(running)]
        requests += [(60, each.request(16 + number)) for number, each in enumerate(burst)]
        run = drive(engine, requests)
        read = max(run.first_at[str(16 + number)] for number in range(64))
        arrived = read - max(run.first[str(16 + number)] for number in range(64))
        gaps = [gap for number in range(16) for at_s, gap in run.gaps[str(number)] if arrived <= at_s <= read]
        p99.append(at(sorted(gaps), 0.99))
        print(f"burst, {label}: {run.line()}; gap of the 16 meanwhile p99 {p99[-1]:.1f} ms", flush=True)
        del engine
    print(f"burst: p99 gap {p99[0] / p99[1]:.2f} of without chunks", flush=True)


def prefixes(bench: Bench) -> None:
    """64 requests that begin with the same 1,000 tokens, against 64 as long that share nothing."""
    firsts = []
    for label, shares in (("shared", True), ("not shared", False)):
        engine = bench.engine()
        source = random.Random(1)

        def some(count: int, source: random.Random = source) -> list[int]:
            return [source.randrange(bench.config.vocab_size) for _ in range(count)]

        prefix = some(1000)
        asked = [Asked([*(prefix if shares else some(1000)), *some(24)], 8) for _ in range(64)]
        drive(engine, at_once(workload(bench.config.vocab_size, 64, range(30, 31), range(8, 9))))
        firsts.append(statistics.fmean(drive(engine, at_once(asked)).first.values()))
        print(f"prefix of 1,000 tokens, {label}: first token after {firsts[-1] * 1000:.1f} ms (mean)", flush=True)
        del engine
    print(f"prefix: {firsts[0] / firsts[1]:.2f} of without sharing", flush=True)


def experts(bench: Bench) -> None:
    """The same workload for a model that chooses experts."""
    engine = bench.engine(shape_with_experts(large=bench.large))
    whole(bench, engine, "experts")
    steps(bench, engine, "experts")


def attentions(bench: Bench) -> None:
    """The same workload by each attention over pages that there is."""
    for name in ("triton", "varlen", "flash"):
        try:
            engine = bench.engine(attention=name)
        except ConfigurationError as unavailable:
            print(unavailable, flush=True)
            continue
        whole(bench, engine, name)
        steps(bench, engine, name)
        del engine


def main() -> None:
    """Everything, or the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts: dict[str, Callable[[Bench], None]] = {
        "steps": _steps,
        "plain": _plain,
        "four": _four,
        "bursts": bursts,
        "prefixes": prefixes,
        "experts": experts,
        "attentions": attentions,
    }
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"of {', '.join(parts)}")
    parser.add_argument("--quick", action="store_true", help="a small model on a GPU too")
    given = parser.parse_args()
    bench = Bench(quick=given.quick)
    print(check(bench.device), flush=True)
    for part in given.parts:
        began = time.perf_counter()
        parts[part](bench)
        print(f"({part}: {time.perf_counter() - began:.0f} s)", flush=True)


def _steps(bench: Bench) -> None:
    began = time.perf_counter()
    engine = bench.engine()
    print(f"ready after {time.perf_counter() - began:.1f} s", flush=True)
    whole(bench, engine, "engine")
    prompts_alone(bench, engine, "engine")
    steps(bench, engine, "engine")


def _plain(bench: Bench) -> None:
    engine = bench.engine(compile=False)
    steps(bench, engine, "not compiled")
    whole(bench, engine, "not compiled")


def _four(bench: Bench) -> None:
    four(bench, bench.engine(max_batch=8))


if __name__ == "__main__":
    main()
