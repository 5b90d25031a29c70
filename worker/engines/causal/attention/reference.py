"""Attention as it is defined, a row and a head at a time in float64: what the other backends are checked against."""

from __future__ import annotations

import torch

from worker.engines.causal.attention.base import Layout, Pages


class Reference:
    """Slow and plain. Answers in the query's dtype, rounded once."""

    name = "reference"
    capturable = False
    block_size = 16

    def begin(self, layout: Layout, block_size: int) -> None:
        """Nothing is shared between layers but the layout."""
        self._layout = layout
        self._block_size = block_size

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
        pages.write(self._layout.cells, key, value)
        group = query.shape[1] // key.shape[1]
        starts = self._layout.starts.tolist()
        answers = []
        for row, length in enumerate(self._layout.lengths.tolist()):
            keys, values = (self._cached(row, length, part).double() for part in (pages.keys, pages.values))
            queries = query[starts[row] : starts[row + 1]].double()
            seen = _seen(len(queries), length, window).to(query.device)
            for head in range(query.shape[1]):
                scores = scale * queries[:, head] @ keys[:, head // group].T
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
                answers.append(weights @ values[:, head // group])
        return _by_token(answers, query)

    def _cached(self, row: int, length: int, part: torch.Tensor) -> torch.Tensor:
        """A row's keys or values in order, (length, kv_heads, dim)."""
        places = torch.arange(length, device=part.device)
        blocks = self._layout.tables[row].long()[places // self._block_size]
        return part[blocks, places % self._block_size]


def _seen(queries: int, length: int, window: int | None) -> torch.Tensor:
    """Whether the i-th of a row's last tokens sees the j-th of all its tokens, (queries, length)."""
    last = torch.arange(length - queries, length).unsqueeze(-1)
    positions = torch.arange(length)
    causal = positions <= last
    return causal if window is None else causal & (positions > last - window)


def _by_token(answers: list[torch.Tensor], query: torch.Tensor) -> torch.Tensor:
    """Answers of one row and head each, in that order, as (tokens, heads, dim)."""
    heads = query.shape[1]
    rows = [torch.stack(answers[first : first + heads], dim=1) for first in range(0, len(answers), heads)]
    return torch.cat(rows).to(query.dtype)
