"""The keys and values of all tokens that are in the batch, or may be asked for again: one pair of tensors a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ktqueue.errors import ConfigurationError
from worker.engines.causal.attention.base import Attention, LayerShape, Layout, Pages
from worker.engines.causal.upload import Numbers


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is room for: ``blocks`` of ``block_size`` tokens, one of which is nobody's."""

    blocks: int
    block_size: int

    @property
    def tokens(self) -> int:
        """How many tokens fit, of all requests together."""
        return (self.blocks - 1) * self.block_size


def size_for(memory: int, bytes_per_token: int, block_size: int, *, most_tokens: int) -> Size:
    """What fits into ``memory`` bytes, and no more than could be needed. Raises ConfigurationError if nothing does."""
    block = block_size * bytes_per_token
    blocks = min(memory // block, 1 - -most_tokens // block_size)
    if blocks < 2:
        raise ConfigurationError(
            f"{memory / 1e6:.0f} MB are left for keys and values, and {block_size} tokens take {block / 1e6:.1f}"
        )
    return Size(blocks, block_size)


class Cache:
    """The tensors, and attention over them in the forward that was begun last."""

    def __init__(self, shapes: Sequence[LayerShape], size: Size, attention: Attention, device: torch.device) -> None:
        self.size = size
        self._attention = attention
        # Not zeroed: what nobody wrote is never read, and memory that is never touched costs nothing on a CPU.
        self._pages = [
            Pages(
                torch.empty(size.blocks, size.block_size, shape.heads, shape.key_dim, dtype=shape.dtype, device=device),
                torch.empty(
                    size.blocks, size.block_size, shape.heads, shape.value_dim, dtype=shape.dtype, device=device
                ),
            )
            for shape in shapes
        ]
        self._next = 0

    def copy(self, copies: Numbers) -> None:
        """Copy whole blocks, in all layers: (2, copies), sources and targets."""
        if not copies.size:
            return
        sources, targets = copies
        for pages in self._pages:
            for tensor in (pages.keys, pages.values):
                tensor[targets] = tensor[sources]

    def begin(self, layout: Layout) -> None:
        """The next calls of `attend` are those of a forward with this layout, layer by layer."""
        self._next = 0
        self._attention.begin(layout, self.size.block_size)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """The next layer's attention; the new keys and values are kept."""
        pages = self._pages[self._next]
        self._next += 1
        return self._attention.attend(query, key, value, pages, scale=scale, window=window, softcap=softcap)
