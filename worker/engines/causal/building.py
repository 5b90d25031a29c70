"""From a loaded model to its engine on one device."""

from __future__ import annotations

import logging

from transformers import PreTrainedModel

from ktqueue.errors import ConfigurationError
from ktqueue.models import ModelSpec
from ktqueue.room import Room
from worker.engines.causal.blocks import Blocks
from worker.engines.causal.cache import size_for
from worker.engines.causal.engine import CausalEngine
from worker.engines.causal.executor import OneDevice
from worker.engines.causal.fitting import Fitting
from worker.engines.causal.part import Part
from worker.engines.causal.prompt import PromptReader
from worker.engines.causal.scheduler import Scheduler
from worker.engines.causal.step import StepWriter
from worker.engines.causal.voice import Voice

_DRAFTS = 8
"""Tokens that are guessed of one sequence, and"""
_DRAFTED = 32
"""of all in a step: so few that the step is hardly longer."""

logger = logging.getLogger(__name__)


def build(spec: ModelSpec, model: PreTrainedModel, prompts: PromptReader, voice: Voice) -> CausalEngine:
    """An engine for a model that is on its device already. Raises ConfigurationError."""
    fitting = Fitting(spec, Part(model))
    if fitting.longest_alike is not None:
        prompts.limit(fitting.longest_alike)
    fitting.try_largest_step(prompts.context)
    most = spec.max_batch * prompts.context
    size = size_for(fitting.memory, fitting.bytes_per_token, fitting.attention.block_size, most_tokens=most)
    prompts.limit(size.tokens)
    stage = fitting.stage(size, prompts.context)
    stage.warm_up()
    drafts = _drafts(spec, model)
    logger.info(
        "%s: %d blocks, %.1f GB of keys and values; %s, %d graphs",
        spec.alias,
        size.blocks - 1,
        size.tokens * fitting.bytes_per_token / 1e9,
        "layers compiled" if fitting.compiled else "layers not compiled",
        len(fitting.buckets),
    )
    return CausalEngine(
        Scheduler(
            Blocks(size.blocks, size.block_size),
            slots=spec.max_batch,
            budget=spec.tokens_per_step,
            drafted=_DRAFTED if drafts else 0,
        ),
        OneDevice(StepWriter(slots=spec.max_batch, block_size=size.block_size), stage),
        prompts,
        voice,
        room=Room(spec.max_batch, size.tokens, size.block_size, fitting.attention.name),
        vocabulary=fitting.vocabulary,
        # A CPU has nothing to compute on while the host reads: it is the host.
        ahead=1 if model.device.type == "cuda" else 0,
        drafts=drafts,
    )


def _drafts(spec: ModelSpec, model: PreTrainedModel) -> int:
    if model.device.type == "cpu":
        return _DRAFTS if spec.draft_tokens is None else spec.draft_tokens
    if spec.draft_tokens:
        raise ConfigurationError("draft_tokens: a GPU computes a step ahead, when what to guess from is not known yet")
    return 0
