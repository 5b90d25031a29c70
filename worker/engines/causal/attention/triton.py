"""Attention on CUDA: rows that decode by our own kernels over pages, rows that read by torch's flash attention."""

from __future__ import annotations

import torch

from worker.engines.causal.attention.base import Layout, Pages
from worker.engines.causal.attention.flash import FlashReading, can_flash
from worker.engines.causal.attention.gathered import Gathered
from worker.engines.causal.attention.paged_decode import TILING, decode, splits_for


class TritonAttention:
    """``processors``: how many multiprocessors the device has, among which rows that decode are divided."""

    name = "triton"
    capturable = True
    block_size = 16

    def __init__(self, processors: int) -> None:
        self._processors = processors
        self._flash = FlashReading()
        self._gathered = Gathered()

    def begin(self, layout: Layout, block_size: int) -> None:
        """As `Attention.begin`. For rows that decode there is nothing to make."""
        self._layout = layout
        self._block_size = block_size
        self._flash.begin(layout, block_size)
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
        first = self._layout.decodes
        out = query.new_empty(*query.shape[:2], value.shape[2])
        if first > 0:
            splits = splits_for(first, key.shape[1], self._processors)
            decode(
                query, key, value, pages, self._layout, out,
                block_size=self._block_size, splits=splits, tiling=TILING,
                scale=scale, window=window, softcap=softcap,
            )  # fmt: skip
        if first == len(query):
            return out
        pages.write(self._layout.cells[first:], key[first:], value[first:])
        if not can_flash(query, value, softcap):
            self._gathered.read(query, key, value, pages, out, scale=scale, window=window, softcap=softcap)
            return out
        answer = self._flash.read(query[first:], key[first:], value[first:], pages, scale=scale, window=window)
        if first == 0:
            return answer
        out[first:] = answer
        return out
