"""The seam between a forward over flat tokens and whatever computes attention over paged keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What a layer keeps of a token: ``heads`` keys and values, as long as the dims say; and how it attends to them.

    ``window`` and ``softcap`` as in `Attention.attend`.
    """

    heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    window: int | None
    softcap: float | None = None

    @property
    def bytes_per_token(self) -> int:
        """What keys and values of one token take."""
        return self.heads * (self.key_dim + self.value_dim) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """Which tokens of one forward belong to which row, and where each row's keys and values lie.

    Rows that decode come first, with one token each, or a few where tokens are drafted, on a CPU; then those that read.
    All tensors are on the device. Padding rows of a captured graph have length 1 and table 0: block 0 is nobody's and
    may be overwritten at will.

    ``starts``, (rows + 1,) int32: where a row's tokens begin among the forward's tokens.
    ``lengths``, (rows,) int32: a row's tokens in the cache, those of this forward included.
    ``tables``, (rows, width) int32: a row's blocks, in order; 0 where there is none.
    ``cells``, (tokens,) int64: block * block_size + place, where each token's key and value go.
    ``row_starts`` and ``row_lengths`` are starts and lengths again, on the host. Those of the reading rows are exact in
    every forward; in a captured graph, where all rows decode, they are upper bounds.
    ``owners``, one for each row that decodes: a number that its sequence has and no other ever had. Without them,
    nothing is kept from forward to forward.
    """

    decodes: int
    starts: torch.Tensor
    lengths: torch.Tensor
    tables: torch.Tensor
    cells: torch.Tensor
    row_starts: Sequence[int]
    row_lengths: Sequence[int]
    owners: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Pages:
    """One layer's cache: (blocks, block_size, kv_heads, dim) each, contiguous. The two dims may differ."""

    keys: torch.Tensor
    values: torch.Tensor

    def write(self, cells: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Put new tokens' keys and values, (tokens, kv_heads, dim), where they belong."""
        self.keys.flatten(0, 1).index_copy_(0, cells, key)
        self.values.flatten(0, 1).index_copy_(0, cells, value)


class Attention(Protocol):
    """Causal attention for all rows of a forward. One object serves one forward after the other."""

    name: str
    capturable: bool
    """Whether forwards in which all rows decode can be captured in a CUDA graph."""
    block_size: int
    """How many tokens its blocks should have. Small ones waste less at the ends of answers."""

    def begin(self, layout: Layout, block_size: int) -> None:
        """Make what all layers of a forward share. Called once a forward, before any layer."""

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        pages: Pages,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """Write the new keys and values into ``pages``, and attend: (tokens, heads, dim of value).

        query (tokens, heads, dim); key and value (tokens, kv_heads, dim) are the new ones. The i-th of a row's q new
        tokens sees the row's first ``length - q + i + 1`` tokens; with a ``window`` only the last so many of those.
        Query head h uses key head ``h // (heads // kv_heads)``. Scores are ``scale`` times the product, and with a
        ``softcap`` c then ``c * tanh(score / c)``.
        """
