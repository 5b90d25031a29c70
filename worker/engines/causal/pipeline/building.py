"""From a catalogue's entry to an engine whose model is spread over several devices."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ktqueue.errors import ConfigurationError
from ktqueue.models import ModelSpec
from ktqueue.room import Room
from worker.engines.causal.blocks import Blocks
from worker.engines.causal.cache import Size, size_for
from worker.engines.causal.engine import CausalEngine
from worker.engines.causal.pipeline.partition import Times, agreed, split
from worker.engines.causal.pipeline.stages import Staged, Stages, threads_each
from worker.engines.causal.prompt import PromptReader
from worker.engines.causal.scheduler import Scheduler
from worker.engines.causal.step import StepWriter
from worker.engines.causal.voice import voice_of
from worker.engines.trouble import DeviceLost

logger = logging.getLogger(__name__)


def build_staged(spec: ModelSpec, devices: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> CausalEngine:
    """An engine of one stage on each of ``devices``. Raises ConfigurationError."""
    stages = Stages(spec, devices, threads=threads_each(spec, len(devices)))
    try:
        return _build(spec, stages, tokenizer, cuda=devices[0].startswith("cuda"))
    except BaseException as error:
        stages.close()
        if isinstance(error, DeviceLost):
            raise ConfigurationError(f"model {spec.alias!r}: {error}") from error
        raise


def _build(spec: ModelSpec, stages: Stages, tokenizer: PreTrainedTokenizerBase, *, cuda: bool) -> CausalEngine:
    layers = _divide(spec, stages)
    fitted = stages.hear_all()
    size = _size(spec, fitted)
    prompts = PromptReader(tokenizer, min(fitted[0]["context"], size.tokens))
    stages.tell({"blocks": size.blocks, "block_size": size.block_size, "context": prompts.context})
    stages.hear_all()
    logger.info(
        "%s: layers %s; %d blocks",
        spec.alias,
        ", ".join(f"{each.start}-{each.stop - 1}" for each in layers),
        size.blocks - 1,
    )
    ends = fitted[-1]["ends"] or [tokenizer.eos_token_id]
    count = len(layers)
    return CausalEngine(
        Scheduler(Blocks(size.blocks, size.block_size), slots=spec.max_batch, budget=spec.tokens_per_step, parts=count),
        Staged(stages, StepWriter(slots=spec.max_batch, block_size=size.block_size), slots=spec.max_batch),
        prompts,
        voice_of(tokenizer, frozenset(end for end in ends if end is not None)),
        room=Room(spec.max_batch, size.tokens, size.block_size, fitted[0]["attention"]),
        vocabulary=fitted[-1]["vocabulary"],
        # A step for every stage; on GPUs one more, so that the first finds its next when it is done.
        ahead=count if cuda else count - 1,
    )


def _divide(spec: ModelSpec, stages: Stages) -> list[range]:
    heard = stages.hear_all()
    times = [Times(told["layers"], told["before"], told["after"]) for told in heard]
    try:
        layers = split(agreed(times, [told["kind"] for told in heard]))
    except ValueError as error:
        raise ConfigurationError(f"model {spec.alias!r}: devices: {error}") from error
    stages.tell_each([{"layers": [each.start, each.stop]} for each in layers])
    return layers


def _size(spec: ModelSpec, fitted: Sequence[dict[str, Any]]) -> Size:
    """What fits on every stage; ``cache_gb`` is of all of them together."""
    most, block_size = spec.max_batch * fitted[0]["context"], fitted[0]["block_size"]
    if spec.cache_gb is not None:
        all_bytes = sum(told["bytes_per_token"] for told in fitted)
        return size_for(int(spec.cache_gb * 1e9), all_bytes, block_size, most_tokens=most)
    sizes = [size_for(told["memory"], told["bytes_per_token"], block_size, most_tokens=most) for told in fitted]
    return min(sizes, key=lambda size: size.blocks)
