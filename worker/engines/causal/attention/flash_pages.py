"""Attention on CUDA by one call of a flash attention that follows block tables, for rows that decode or read alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch

from worker.engines.causal.attention.base import LayerShape, Layout, Pages
from worker.engines.causal.attention.flash import LARGEST_DIM, starts_of

PAGE = 256
"""FlashAttention-2 refuses pages that are no multiple of it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of a forward: where queries begin, how many keys each has, their sums, pages; the most of either."""

    starts: torch.Tensor
    lengths: torch.Tensor
    key_starts: torch.Tensor
    tables: torch.Tensor
    most_queries: int
    most_keys: int


class Kernel(Protocol):
    """Who computes it: causal from the last key on, with grouped heads and windows."""

    name: str
    softcaps: bool
    """Whether it knows any."""

    def __call__(
        self, query: torch.Tensor, pages: Pages, rows: Rows, *, scale: float, window: int | None, softcap: float | None
    ) -> torch.Tensor:
        """As `Attention.attend`, but that the new keys and values are in ``pages`` already."""


class FlashPages:
    """``kernel`` for every layer of a model that is not `unfit` for it."""

    capturable = True
    block_size = PAGE

    def __init__(self, kernel: Kernel) -> None:
        self.name = kernel.name
        self._kernel = kernel

    def begin(self, layout: Layout, block_size: int) -> None:
        """As `Attention.begin`."""
        del block_size
        self._cells = layout.cells
        self._rows = Rows(
            layout.starts,
            layout.lengths,
            starts_of(layout.lengths),
            layout.tables,
            max(end - start for start, end in pairwise(layout.row_starts)),
            max(layout.row_lengths),
        )

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
        """As `Attention.attend`."""
        pages.write(self._cells, key, value)
        return self._kernel(query, pages, self._rows, scale=scale, window=window, softcap=softcap)


def unfit(shapes: Sequence[LayerShape], *, softcaps: bool) -> str | None:
    """What such a kernel can't do for a model with these layers; None if it can all."""
    for shape in shapes:
        if shape.key_dim != shape.value_dim or shape.key_dim % 8 or shape.key_dim > LARGEST_DIM:
            dims = f"{shape.key_dim} and {shape.value_dim}"
            return f"takes keys and values of one dim, a multiple of 8 up to {LARGEST_DIM}; these have {dims}"
        if shape.softcap is not None and not softcaps:
            return "knows no soft caps, and the model has some"
    return None
