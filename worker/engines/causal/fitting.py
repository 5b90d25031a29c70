"""A loaded part of a model made ready for its device: how it attends and computes, and how much it can hold."""

from __future__ import annotations

import torch

from ktqueue.errors import ConfigurationError
from ktqueue.models import ModelSpec
from worker.engines.causal.attention.choose import Need, choose
from worker.engines.causal.cache import Cache, Size
from worker.engines.causal.fuse import compile_layers, merge_projections
from worker.engines.causal.graphs import buckets
from worker.engines.causal.norms import fuse_norms
from worker.engines.causal.paged import attending, prepare, unpaged
from worker.engines.causal.part import Part
from worker.engines.causal.sampler import Sampler
from worker.engines.causal.stage import Stage
from worker.engines.causal.traits import longest_alike, waits_for_device
from worker.engines.device import cache_bytes, has_compiler
from worker.engines.packed import pack_linears

_KEPT = 4
"""On a CPU one part in so many of the memory for keys and values is for keeping those side by side that are in use."""


class Fitting:
    """A part on its device, quickened. Raises ConfigurationError if it can't be batched.

    With ``goes_on``, the same sequences decode step after step, and what attention reads may be kept for them.
    """

    def __init__(self, spec: ModelSpec, part: Part, *, goes_on: bool = True) -> None:
        self._spec = spec
        self._part = part
        model = part.model
        self._cuda = part.device.type == "cuda"
        self.shapes = prepare(part)
        self._steady = self._cuda and not waits_for_device(part)
        self.compiled = self._steady and has_compiler() if spec.compile is None else spec.compile
        quicken(part, compiled=self.compiled)
        self.vocabulary: int = model.config.get_text_config().vocab_size
        self.longest_alike = longest_alike(model)
        memory = cache_bytes(spec, part.device)
        kept = memory // _KEPT if goes_on and not self._cuda else 0
        self.memory = memory - kept
        self.bytes_per_token = sum(shape.bytes_per_token for shape in self.shapes)
        keep_tokens = kept // max(1, self.bytes_per_token)
        self.attention = choose(Need(part.device, part.dtype, self.shapes, keep_tokens), spec.attention)
        self._sampler: Sampler | None = None
        if part.last:
            self._sampler = Sampler(slots=spec.max_batch, vocabulary=self.vocabulary, device=part.device)

    @torch.inference_mode()
    def try_largest_step(self, context: int) -> None:
        """Let the device's allocator take what the largest step needs, so that what is free after it is really free."""
        if not self._cuda:
            return
        device, tokens = self._part.device, self._spec.tokens_per_step
        positions = torch.arange(tokens, device=device) % context
        keep = torch.arange(min(self._spec.max_batch, tokens), device=device)
        with attending(unpaged()):
            out = self._part(self._part.inputs(tokens), positions, keep)
        # A sampler works on a few tables of this size at once.
        work = [out.float() for _ in range(4)]
        torch.cuda.synchronize(device)
        del work
        self.memory = cache_bytes(self._spec, device)

    def stage(self, size: Size, context: int) -> Stage:
        """What runs its steps, warm, with a cache of this size."""
        device = self._part.device
        return Stage(
            self._part,
            Cache(self.shapes, size, self.attention, device),
            self._sampler,
            slots=self._spec.max_batch,
            context=context,
            buckets=self.buckets,
        )

    @property
    def buckets(self) -> list[int]:
        """The batch sizes in which decoding is captured."""
        captures = self._steady and self.attention.capturable and self.longest_alike is None
        return buckets(self._spec.max_batch) if captures else []


def quicken(part: Part, *, compiled: bool) -> None:
    """The same computation in fewer, larger pieces. A compiler makes its own of all but the products."""
    model = part.model
    if compiled:
        merge_projections(model)
        compile_layers(model)
    elif part.device.type == "cpu":
        before = _is_finite(part)
        merge_projections(model)
        pack_linears(model)
        fuse_norms(model)
        if before and not _is_finite(part):
            kind = model.config.get_text_config().model_type
            raise ConfigurationError(
                f"{kind} models can't be run on a CPU in float32: they compute with weights of layers that are packed; "
                "set dtype = 'bfloat16'"
            )


@torch.inference_mode()
def _is_finite(part: Part) -> bool:
    """Whether a forward of a few tokens gives numbers."""
    positions = torch.arange(2, device=part.device)
    with attending(unpaged()):
        return bool(part(part.inputs(2), positions).isfinite().all())
