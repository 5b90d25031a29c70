"""Rows that read, through the flash attention that comes with torch on CUDA."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from worker.engines.causal.attention.base import Layout, Pages

LARGEST_DIM = 256


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows that read, one after the other: where each one's queries and keys begin, and the most of either.

    ``cells``: where the keys lie that they see, new ones and old; None if the new ones are all.
    """

    query_starts: torch.Tensor
    key_starts: torch.Tensor
    most_queries: int
    most_keys: int
    cells: torch.Tensor | None


class FlashReading:
    """Grouped heads, bottom-right causal masks and windows are the kernel's own; soft caps it has none."""

    def begin(self, layout: Layout, block_size: int) -> None:
        """Index tensors for all layers; nothing when no row reads."""
        self._rows = rows_of(layout, block_size) if len(layout.row_lengths) > layout.decodes else None

    def read(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        pages: Pages,
        *,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        """The tokens of the rows that read alone, whose keys and values are in ``pages`` already."""
        rows = self._rows
        assert rows is not None
        if rows.cells is not None:
            key, value = (part.flatten(0, 1).index_select(0, rows.cells) for part in (pages.keys, pages.values))
        answer, *_ = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 - SDPA reaches it only for padded rows
            query,
            key,
            value,
            rows.query_starts,
            rows.key_starts,
            rows.most_queries,
            rows.most_keys,
            0.0,
            window is None,
            False,
            scale=scale,
            window_size_left=-1 if window is None else window - 1,
            window_size_right=0,
        )
        assert isinstance(answer, torch.Tensor)
        return answer


def can_flash(query: torch.Tensor, value: torch.Tensor, softcap: float | None) -> bool:
    """Whether torch's flash attention takes this."""
    dim = query.shape[2]
    fits = dim == value.shape[2] and dim % 8 == 0 and dim <= LARGEST_DIM
    return query.is_cuda and query.dtype in {torch.bfloat16, torch.float16} and fits and softcap is None


def starts_of(lengths: torch.Tensor) -> torch.Tensor:
    """Where each begins when so many lie one after the other, and where the last ends: (rows + 1,) int32."""
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


def rows_of(layout: Layout, block_size: int) -> Rows:
    """What the kernel wants to know of the rows that read; there is at least one."""
    first = layout.decodes
    lengths = layout.row_lengths[first:]
    news = [end - start for start, end in pairwise(layout.row_starts[first:])]
    key_starts = starts_of(layout.lengths[first:])
    cells = None
    if max(length - new for length, new in zip(lengths, news, strict=True)) > 0:
        cells = _cells(layout.tables[first:], layout.lengths[first:], key_starts, sum(lengths), block_size)
    # Each row that decodes has one token.
    return Rows(layout.starts[first:] - first, key_starts, max(news), max(lengths), cells)


def _cells(
    tables: torch.Tensor, lengths: torch.Tensor, key_starts: torch.Tensor, total: int, block_size: int
) -> torch.Tensor:
    """Where all tokens of these rows lie, row by row: (total,)."""
    rows = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths, output_size=total)
    places = torch.arange(total, device=lengths.device) - key_starts[rows]
    return tables[rows, places // block_size].long() * block_size + places % block_size
