"""Driving engines: requests in, outputs out, until nothing is left to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ktqueue.job import JobError, JsonObject, Task
from ktqueue.models import ModelSpec
from ktqueue.room import Room
from worker.engines.base import Cut, Declined, Delta, Engine, Failed, Finished, Output, Request
from worker.engines.causal.attention.choose import Need, choose
from worker.engines.causal.blocks import Blocks
from worker.engines.causal.cache import Cache, Size
from worker.engines.causal.engine import CausalEngine
from worker.engines.causal.executor import OneDevice
from worker.engines.causal.paged import prepare
from worker.engines.causal.part import Part
from worker.engines.causal.prompt import PromptReader
from worker.engines.causal.sampler import Sampler
from worker.engines.causal.scheduler import Scheduler
from worker.engines.causal.stage import Stage
from worker.engines.causal.step import StepWriter
from worker.engines.loading import voice
from worker.engines.registry import load


def loaded(spec: ModelSpec) -> Engine:
    """The engine of a model's first slot."""
    return load(spec, spec.places[0])


class Run:
    """One engine, and what it said. Each output has to be of a request that is in the engine and has not ended."""

    def __init__(self, engine: Engine, *requests: Request) -> None:
        self.engine = engine
        self.inside: set[str] = set()
        self.finished: dict[str, Finished] = {}
        self.errors: dict[str, JobError] = {}
        self.declined: set[str] = set()
        self.texts: dict[str, str] = {}
        self.told: dict[str, int] = {}
        self.submit(*requests)

    def submit(self, *requests: Request) -> None:
        for request in requests:
            self.inside.add(request.id)
            self.engine.submit(request)

    def cancel(self, job_id: str) -> None:
        self.inside.discard(job_id)
        self.engine.cancel(job_id)

    def cut(self, job_id: str) -> Cut:
        self.inside.discard(job_id)
        return self.engine.cut(job_id)

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
            elif isinstance(output, Declined):
                self.inside.discard(output.id)
                self.declined.add(output.id)
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
        name = f"{delta.id}/{delta.choice}" if delta.choice else delta.id
        so_far = self.texts.get(name, "")
        assert delta.offset == len(so_far)
        assert delta.text
        assert 0 < delta.progress <= 1
        assert delta.told > self.told.get(delta.id, 0)
        self.texts[name] = so_far + delta.text
        self.told[delta.id] = delta.told


def greedy(model: Any, prompt: list[int], most: int) -> list[int]:
    """What transformers' own loop answers to this prompt alone, taking the likeliest token each time."""
    ids = torch.tensor([prompt], device=model.device)
    attention = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False)
    model.set_attn_implementation(attention)
    return [int(token) for token in output[0, len(prompt) :]]


def assert_chances_of(
    model: Any, tokenizer: PreTrainedTokenizerBase, run: Run, prompts: Mapping[str, str], *, within: float
) -> None:
    """The logprobs of a run's answers are, but for rounding, those that this model gives to the same tokens."""
    off = (told(run, prompts) - chances(model, tokenizer, run, prompts)).abs().max()
    assert off < within, off


def told(run: Run, prompts: Mapping[str, str]) -> torch.Tensor:
    """The logprobs of all tokens that a run answered, one answer after the other."""
    return torch.tensor([each["logprob"] for job_id in prompts for each in run.result(job_id)["logprobs"]])


def chances(model: Any, tokenizer: PreTrainedTokenizerBase, run: Run, prompts: Mapping[str, str]) -> torch.Tensor:
    """The logprobs that this model gives to the same tokens."""
    found = []
    for job_id, prompt in prompts.items():
        before = tokenizer(prompt).input_ids
        ids = torch.tensor([before + run.result(job_id)["tokens"]], device=model.device)
        with torch.inference_mode():
            all_chances = model(input_ids=ids).logits[0].float().log_softmax(-1)
        found.append(all_chances[len(before) - 1 : -1].gather(1, ids[0, len(before) :].unsqueeze(-1)).squeeze(-1).cpu())
    return torch.cat(found)


def causal_engine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    context: int = 64,
    max_batch: int = 4,
    budget: int = 2048,
    tokens: int = 4096,
    block_size: int = 4,
    ahead: int = 0,
    drafts: int = 0,
) -> CausalEngine:
    """An engine of a model that is there already, with room for so many ``tokens`` of all requests together."""
    size = Size(1 - -tokens // block_size, block_size)
    attention = choose(Need(model.device, model.dtype, keep_tokens=tokens))
    vocabulary = model.config.get_text_config().vocab_size
    prompts = PromptReader(tokenizer, context)
    prompts.limit(size.tokens)
    part = Part(model)
    stage = Stage(
        part,
        Cache(prepare(part), size, attention, model.device),
        Sampler(slots=max_batch, vocabulary=vocabulary, device=model.device),
        slots=max_batch,
        context=prompts.context,
    )
    return CausalEngine(
        Scheduler(Blocks(size.blocks, block_size), slots=max_batch, budget=budget, drafted=4 * drafts),
        OneDevice(StepWriter(slots=max_batch, block_size=block_size), stage),
        prompts,
        voice(model, tokenizer),
        room=Room(max_batch, size.tokens, block_size),
        vocabulary=vocabulary,
        ahead=ahead,
        drafts=drafts,
    )


def generate(job_id: str, prompt: str, **params: Any) -> Request:
    """A request to continue a prompt."""
    return Request(job_id, Task.GENERATE, {"prompt": prompt}, params)


def embed(job_id: str, *texts: str, **params: Any) -> Request:
    """A request to embed texts."""
    return Request(job_id, Task.EMBED, {"texts": list(texts)}, params)
