"""Attention over keys and values that are first gathered from their pages. For every device, dtype and shape."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.engines.causal.attention.base import Layout, Pages
from worker.engines.causal.attention.mirror import Mirror
from worker.engines.causal.attention.scores import causal_bias, weigh
from worker.engines.causal.attention.side_by_side import Group, Memory, Pair, Sides, cells_of, cut


@dataclass(frozen=True, slots=True)
class _Reading:
    """A row's new tokens, and where the keys that they see lie; None if those are the new ones.

    Without a bias the new tokens see each other as far as they go.
    """

    tokens: slice
    cells: torch.Tensor | None
    bias: torch.Tensor | None


class Gathered:
    """Only cells that a row may see are ever read, so what a page held before can't reach an answer.

    Which cells, and which of them count, is made once for each window that the layers of a forward have. Up to
    ``keep_tokens`` of what rows that decode see lie side by side from forward to forward, in every layer.
    """

    name = "gathered"
    capturable = False
    block_size = 16

    def __init__(self, keep_tokens: int = 0) -> None:
        self._mirror = Mirror(keep_tokens)
        self._windows: set[int | None] = set()
        self._pair = Pair()
        self._keys = Memory()
        self._values = Memory()

    def begin(self, layout: Layout, block_size: int) -> None:
        """Index tensors follow with the first layer that asks for them."""
        self._layout = layout
        self._block_size = block_size
        self._longest = max(layout.row_lengths[: layout.decodes], default=0)
        self._windowed: dict[int | None, list[Group]] = {}
        self._reading: dict[int | None, list[_Reading]] = {}
        self._mirror.begin(layout, block_size, frozenset(filter(self._sees_all, self._windows)))

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
        groups = self._sides(key, value, pages, window)
        if len(groups) == 1 and groups[0].group.news.queries == slice(0, len(query)):
            return _decoded(query, groups[0], scale=scale, softcap=softcap)
        out = query.new_empty(*query.shape[:2], value.shape[2])
        for sides in groups:
            queries = sides.group.news.queries
            out[queries] = _decoded(query[queries], sides, scale=scale, softcap=softcap)
        self.read(query, key, value, pages, out, scale=scale, window=window, softcap=softcap)
        return out

    def read(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        pages: Pages,
        out: torch.Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> None:
        """Only the rows that read, whose keys and values are in ``pages`` already; into their part of ``out``."""
        if window not in self._reading:
            self._reading[window] = self._readings(window, query)
        for row in self._reading[window]:
            keys, values = key[row.tokens], value[row.tokens]
            if row.cells is not None:
                keys, values = self._gather(pages, row.cells)
            # As many batches as key heads: a group's keys are then one tensor seen often, not copied.
            queries = torch.unflatten(query[row.tokens], 1, (keys.shape[1], -1)).permute(1, 2, 0, 3)
            keys, values = (
                part.transpose(0, 1).unsqueeze(1).expand(-1, queries.shape[1], -1, -1) for part in (keys, values)
            )
            answer = weigh(queries, keys, values, row.bias, scale=scale, softcap=softcap)
            out[row.tokens] = answer.permute(2, 0, 1, 3).flatten(1, 2)

    def _sides(self, key: torch.Tensor, value: torch.Tensor, pages: Pages, window: int | None) -> list[Sides]:
        self._windows.add(window)
        if self._sees_all(window):
            return self._mirror.sides(pages, key, value)
        if window not in self._windowed:
            self._windowed[window] = cut(self._layout, self._block_size, window=window, headroom=0, like=key)
        return self._pair.gather(self._windowed[window], pages)

    def _sees_all(self, window: int | None) -> bool:
        """Whether a layer that looks back so far sees all tokens of the rows that decode."""
        return window is None or window >= self._longest

    def _gather(self, pages: Pages, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What lies in these cells, (cells, kv_heads, dim) each; valid until the next call."""
        (keys,), (values,) = self._keys.gather(pages.keys, cells), self._values.gather(pages.values, cells)
        return keys, values

    def _readings(self, window: int | None, like: torch.Tensor) -> list[_Reading]:
        starts, lengths = self._layout.row_starts, self._layout.row_lengths
        return [
            self._reading_of(row, slice(starts[row], starts[row + 1]), lengths[row], window, like)
            for row in range(self._layout.decodes, len(lengths))
        ]

    def _reading_of(self, row: int, tokens: slice, length: int, window: int | None, like: torch.Tensor) -> _Reading:
        new = tokens.stop - tokens.start
        whole = window is None or window >= length
        if new == length:
            return _Reading(tokens, None, None if whole else causal_bias(new, new, window, like))
        keys = length if window is None else min(length, new + window - 1)
        positions = torch.arange(length - keys, length, device=like.device).unsqueeze(0)
        cells = cells_of(self._layout.tables[row : row + 1], positions, self._block_size).flatten()
        return _Reading(tokens, cells, causal_bias(new, keys, window, like))


def _decoded(query: torch.Tensor, sides: Sides, *, scale: float, softcap: float | None) -> torch.Tensor:
    """What the rows of a group see: (rows * width, heads, dim) to (rows * width, heads, dim of value)."""
    keys, values = sides.keys.transpose(1, 2), sides.values.transpose(1, 2)
    width, bias = sides.group.news.width, sides.group.news.bias
    # The heads that share a key head are its queries: keys and values need no repeating.
    if width == 1:
        queries = torch.unflatten(query, 1, (keys.shape[1], -1))
        return weigh(queries, keys, values, bias, scale=scale, softcap=softcap).flatten(1, 2)
    queries = query.view(len(keys), width, keys.shape[1], -1, query.shape[2]).transpose(1, 2)
    sharing = queries.shape[3]
    bias = bias.unsqueeze(3).expand(-1, -1, -1, sharing, -1).flatten(2, 3)
    answer = weigh(queries.flatten(2, 3), keys, values, bias, scale=scale, softcap=softcap)
    return torch.unflatten(answer, 2, (width, sharing)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
