"""torch's own variable-length attention over pages, from torch 2.13 on."""

from __future__ import annotations

import torch
from torch.nn.attention.varlen import varlen_attn

from worker.engines.causal.attention.base import Pages
from worker.engines.causal.attention.flash_pages import Rows


class Varlen:
    """Implements `Kernel`."""

    name = "varlen"
    softcaps = False

    def __call__(
        self, query: torch.Tensor, pages: Pages, rows: Rows, *, scale: float, window: int | None, softcap: float | None
    ) -> torch.Tensor:
        """As `Kernel` has it."""
        del softcap
        # A row's only new token may look at all keys; and where no side is bounded, heads that share keys are computed
        # together.
        to_the_right = -1 if window is None and rows.most_queries == 1 else 0
        answer = varlen_attn(
            query,
            pages.keys,
            pages.values,
            rows.starts,
            rows.key_starts,
            rows.most_queries,
            rows.most_keys,
            scale=scale,
            window_size=(-1 if window is None else window - 1, to_the_right),
            enable_gqa=True,
            seqused_k=rows.lengths,
            block_table=rows.tables,
            # In parts, rows of several lengths have come out wrong (Dao-AILab/flash-attention#1217).
            num_splits=1,
        )
        assert isinstance(answer, torch.Tensor)
        return answer
