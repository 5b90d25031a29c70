"""From a loaded model to its engine: how it attends, how much it can hold, and what is captured beforehand."""

from __future__ import annotations

import logging

import torch
from transformers import PreTrainedModel

from ktqueue.models import ModelSpec
from ktqueue.room import Room
from worker.engines.causal.attention.choose import choose
from worker.engines.causal.blocks import Blocks
from worker.engines.causal.cache import Cache, size_for
from worker.engines.causal.engine import CausalEngine
from worker.engines.causal.executor import Executor
from worker.engines.causal.fuse import compile_layers, merge_projections
from worker.engines.causal.graphs import buckets
from worker.engines.causal.norms import fuse_norms
from worker.engines.causal.paged import attending, prepare, unpaged
from worker.engines.causal.prompt import PromptReader
from worker.engines.causal.sampler import Sampler
from worker.engines.causal.scheduler import Scheduler
from worker.engines.causal.traits import chooses_experts, longest_alike
from worker.engines.causal.voice import Voice
from worker.engines.device import cache_bytes, has_compiler
from worker.engines.packed import pack_linears

_KEPT = 4
"""On a CPU one part in so many of the memory for keys and values is for keeping those side by side that are in use."""

logger = logging.getLogger(__name__)


def build(spec: ModelSpec, model: PreTrainedModel, prompts: PromptReader, voice: Voice) -> CausalEngine:
    """An engine for a model that is on its device already. Raises ConfigurationError."""
    device = model.device
    cuda = device.type == "cuda"
    shapes = prepare(model)
    steady = not chooses_experts(model)
    compiled = cuda and steady and has_compiler() if spec.compile is None else spec.compile
    _quicken(model, compiled=compiled)
    vocabulary = model.config.get_text_config().vocab_size
    memory = cache_bytes(spec, device)
    kept = 0 if cuda else memory // _KEPT
    a_token = sum(shape.bytes_per_token for shape in shapes)
    attention = choose(device, model.dtype, spec.attention, keep_tokens=kept // a_token)
    sampler = Sampler(slots=spec.max_batch, vocabulary=vocabulary, device=device)
    longest = longest_alike(model)
    if longest is not None:
        prompts.limit(longest)
    _try_largest_step(model, spec, prompts.context)
    most = spec.max_batch * prompts.context
    size = size_for(memory - kept, shapes, attention.block_size, most_tokens=most)
    prompts.limit(size.tokens)
    sizes = buckets(spec.max_batch) if cuda and attention.capturable and steady and longest is None else []
    executor = Executor(
        model,
        Cache(shapes, size, attention, device),
        sampler,
        slots=spec.max_batch,
        context=prompts.context,
        buckets=sizes,
    )
    executor.warm_up()
    scheduler = Scheduler(Blocks(size.blocks, size.block_size), slots=spec.max_batch, budget=spec.tokens_per_step)
    logger.info(
        "%s: %d blocks, %.1f GB of keys and values; %s, %d graphs",
        spec.alias,
        size.blocks - 1,
        size.tokens * a_token / 1e9,
        "layers compiled" if compiled else "layers not compiled",
        len(sizes),
    )
    room = Room(spec.max_batch, size.tokens, size.block_size, attention.name)
    return CausalEngine(scheduler, executor, prompts, voice, room=room, vocabulary=vocabulary, ahead=cuda)


def _quicken(model: PreTrainedModel, *, compiled: bool) -> None:
    """The same computation in fewer, larger pieces. A compiler makes its own of all but the products."""
    if compiled:
        merge_projections(model)
        compile_layers(model)
    elif model.device.type == "cpu":
        merge_projections(model)
        pack_linears(model)
        fuse_norms(model)


@torch.inference_mode()
def _try_largest_step(model: PreTrainedModel, spec: ModelSpec, context: int) -> None:
    """Let the device's allocator take what the largest step needs, so that what is free after it is really free."""
    if model.device.type != "cuda":
        return
    tokens = spec.tokens_per_step
    ids = torch.zeros(1, tokens, dtype=torch.long, device=model.device)
    positions = (torch.arange(tokens, device=model.device) % context).unsqueeze(0)
    keep = torch.arange(min(spec.max_batch, tokens), device=model.device)
    with attending(unpaged()):
        logits = model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=keep).logits
    # A sampler works on a few tables of this size at once.
    work = [logits.float() for _ in range(4)]
    torch.cuda.synchronize(model.device)
    del work
