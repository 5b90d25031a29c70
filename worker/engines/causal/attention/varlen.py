"""Attention on CUDA by torch's own variable-length attention over pages, from torch 2.13 on."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch.nn.attention.varlen import varlen_attn

from ktqueue.errors import ConfigurationError
from worker.engines.causal.attention.base import Layout, Pages
from worker.engines.causal.attention.flash import can_flash, starts_of
from worker.engines.causal.attention.gathered import Gathered

# torch's FlashAttention-2 refuses pages of any other size.
PAGE = 256


class VarlenAttention:
    """One call for rows that decode and rows that read. What flash attention does not take is gathered."""

    name = "varlen"
    # What is gathered can't be captured.
    capturable = False
    block_size = PAGE

    def __init__(self) -> None:
        self._gathered = Gathered()

    def begin(self, layout: Layout, block_size: int) -> None:
        """As `Attention.begin`. Raises ConfigurationError for a block size that the kernel does not read."""
        if block_size % PAGE:
            raise ConfigurationError(
                f"varlen attention reads blocks of a multiple of {PAGE} tokens, not of {block_size}"
            )
        self._layout = layout
        self._key_starts = starts_of(layout.lengths)
        self._most_queries = max(end - start for start, end in pairwise(layout.row_starts))
        self._most_keys = max(layout.row_lengths)
        self._gathered.begin(layout, block_size)

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
        if not can_flash(query, value, softcap):
            return self._gathered.attend(query, key, value, pages, scale=scale, window=window, softcap=softcap)
        pages.write(self._layout.cells, key, value)
        answer = varlen_attn(
            query,
            pages.keys,
            pages.values,
            self._layout.starts,
            self._key_starts,
            self._most_queries,
            self._most_keys,
            scale=scale,
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=True,
            seqused_k=self._layout.lengths,
            block_table=self._layout.tables,
            # In parts, rows of several lengths have come out wrong (Dao-AILab/flash-attention#1217).
            num_splits=1,
        )
        assert isinstance(answer, torch.Tensor)
        return answer
