"""Requests to generate, and an engine alone driven through them."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ktqueue.job import JsonObject, Task
from worker.engines.base import Delta, Failed, Finished, Request
from worker.engines.causal.engine import CausalEngine


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a workload: its prompt's tokens, and how many are to follow."""

    prompt: Sequence[int]
    answer: int

    @property
    def input(self) -> JsonObject:
        """The prompt as a client sends it."""
        return {"prompt": " ".join(f"w{token}" for token in self.prompt)}

    @property
    def params(self) -> JsonObject:
        """The answer is as long as it may be."""
        return {"max_tokens": self.answer, "ignore_eos": True}

    def request(self, number: int, **params: Any) -> Request:
        """As the engine takes it."""
        return Request(str(number), Task.GENERATE, self.input, self.params | params)


def workload(
    vocabulary: int, count: int = 256, prompts: range = range(32, 513), answers: range = range(32, 257), seed: int = 0
) -> list[Asked]:
    """Of uniform lengths."""
    source = random.Random(seed)
    lengths = [(source.choice(prompts), source.choice(answers)) for _ in range(count)]
    return [Asked([source.randrange(vocabulary) for _ in range(prompt)], answer) for prompt, answer in lengths]


@dataclass
class Run:
    """What an engine did with requests, in seconds.

    By request: how long after it was submitted its first token came, and when; and of each later one when it came, and
    how long after the one before.
    """

    seconds: float = 0.0
    tokens: int = 0
    steps: int = 0
    first: dict[str, float] = field(default_factory=dict)
    first_at: dict[str, float] = field(default_factory=dict)
    gaps: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def line(self) -> str:
        """In one line."""
        first = sorted(self.first.values())
        gaps = sorted(gap for each in self.gaps.values() for _, gap in each)
        return (
            f"{self.tokens / self.seconds:.0f} tok/s, {self.tokens} in {self.seconds:.2f} s, {self.steps} steps; "
            f"first token p50 {at(first, 0.5):.0f} p99 {at(first, 0.99):.0f} ms; "
            f"gap p50 {at(gaps, 0.5):.1f} p90 {at(gaps, 0.9):.1f} p99 {at(gaps, 0.99):.1f} ms"
        )


def at(values: Sequence[float], share: float) -> float:
    """A percentile of sorted seconds, in milliseconds."""
    return values[min(len(values) - 1, int(share * len(values)))] * 1000 if values else 0.0


def drive(engine: CausalEngine, arrivals: Sequence[tuple[int, Request]]) -> Run:
    """Submit each request at its step, and step until all have ended. Raises if one fails."""
    run, waiting, inside = Run(), list(arrivals), 0
    last: dict[str, float] = {}
    began = time.perf_counter()
    while waiting or inside:
        while waiting and waiting[0][0] <= run.steps and engine.capacity():
            request = waiting.pop(0)[1]
            engine.submit(request)
            last[request.id] = time.perf_counter()
            inside += 1
        outputs = engine.step()
        now = time.perf_counter()
        run.steps += 1
        for output in outputs:
            if isinstance(output, Failed):
                raise SystemExit(output.error.message)
            if isinstance(output, Delta):
                if output.id in run.first:
                    run.gaps.setdefault(output.id, []).append((now, now - last[output.id]))
                else:
                    run.first[output.id], run.first_at[output.id] = now - last[output.id], now
                last[output.id] = now
            if isinstance(output, Finished):
                inside -= 1
                run.tokens += output.usage.completion_tokens if output.usage else 0
    run.seconds = time.perf_counter() - began
    return run


def at_once(asked: Sequence[Asked]) -> list[tuple[int, Request]]:
    """All arrive before the first step."""
    return [(0, each.request(number)) for number, each in enumerate(asked)]
