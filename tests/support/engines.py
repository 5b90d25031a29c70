"""Driving engines: requests in, outputs out, until nothing is left to do."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ktqueue.batching import Rules
from ktqueue.job import JobError, JsonObject, Task
from worker.engines.base import Delta, Engine, Failed, Finished, Output, Request
from worker.engines.causal.dense import DenseBatch
from worker.engines.causal.engine import CausalEngine
from worker.engines.causal.prompt import PromptReader
from worker.engines.loading import voice

ROOM = 1 << 30


class Run:
    """One engine, and what it said. Each output has to be of a request that is in the engine and has not ended."""

    def __init__(self, engine: Engine, *requests: Request) -> None:
        self.engine = engine
        self.inside: set[str] = set()
        self.finished: dict[str, Finished] = {}
        self.errors: dict[str, JobError] = {}
        self.texts: dict[str, str] = {}
        self.submit(*requests)

    def submit(self, *requests: Request) -> None:
        for request in requests:
            self.inside.add(request.id)
            self.engine.submit(request)

    def cancel(self, job_id: str) -> None:
        self.inside.discard(job_id)
        self.engine.cancel(job_id)

    def step(self) -> list[Output]:
        outputs = self.engine.step()
        for output in outputs:
            assert output.id in self.inside
            if isinstance(output, Delta):
                self._more_text(output)
            elif isinstance(output, Finished):
                self.inside.discard(output.id)
                self.finished[output.id] = output
            elif isinstance(output, Failed):
                self.inside.discard(output.id)
                self.errors[output.id] = output.error
        return outputs

    def end(self, steps: int = 3000) -> Run:
        """Step until all have ended."""
        for _ in range(steps):
            if not self.inside:
                return self
            self.step()
        raise AssertionError(f"still not ended after {steps} steps: {sorted(self.inside)}")

    def result(self, job_id: str) -> JsonObject:
        assert self.errors == {}
        return self.finished[job_id].result

    def _more_text(self, delta: Delta) -> None:
        so_far = self.texts.get(delta.id, "")
        assert delta.offset == len(so_far)
        assert delta.text
        assert 0 < delta.progress <= 1
        self.texts[delta.id] = so_far + delta.text


def greedy(model: Any, prompt: list[int], most: int) -> list[int]:
    """What transformers' own loop answers to this prompt alone, taking the likeliest token each time."""
    ids = torch.tensor([prompt], device=model.device)
    with torch.inference_mode():
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False)
    return [int(token) for token in output[0, len(prompt) :]]


def causal_engine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: int = 64,
    max_batch: int = 4,
    budget: int = 2048,
    batch: DenseBatch | None = None,
) -> CausalEngine:
    """An engine of a model that is there already."""
    return CausalEngine(
        batch or DenseBatch(model, memory=ROOM),
        PromptReader(tokenizer, context),
        voice(model, tokenizer),
        max_batch=max_batch,
        rules=Rules(budget=budget, overhead=8),
    )


def generate(job_id: str, prompt: str, **params: Any) -> Request:
    """A request to continue a prompt."""
    return Request(job_id, Task.GENERATE, {"prompt": prompt}, params)


def embed(job_id: str, *texts: str, **params: Any) -> Request:
    """A request to embed texts."""
    return Request(job_id, Task.EMBED, {"texts": list(texts)}, params)
