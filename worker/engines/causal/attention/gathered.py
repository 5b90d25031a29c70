"""Attention over keys and values that are first gathered from their pages. For every device, dtype and shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker.engines.causal.attention.base import Layout, Pages
from worker.engines.causal.attention.scores import as_bias, causal_bias, weigh

# Rows that decode are computed together while the shortest sees at least this part of what the longest sees.
_ALIKE = 0.5


@dataclass(frozen=True, slots=True)
class _Decoding:
    """Rows of about one length: (count,) rows, (count * longest,) cells, (count, 1, 1, longest) bias.

    All rows that decode are a slice: nothing has to be picked out, or put back in its place.
    """

    count: int
    rows: torch.Tensor | slice
    cells: torch.Tensor
    bias: torch.Tensor


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

    Made once for each window that the layers of a forward have: which cells, and which of them count.
    """

    name = "gathered"
    capturable = False
    block_size = 16

    def __init__(self) -> None:
        self._keys = _Scratch()
        self._values = _Scratch()

    def begin(self, layout: Layout, block_size: int) -> None:
        """Index tensors follow with the first layer that asks for them."""
        self._layout = layout
        self._block_size = block_size
        self._decoding: dict[int | None, list[_Decoding]] = {}
        self._reading: dict[int | None, list[_Reading]] = {}

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
        out = query.new_empty(*query.shape[:2], value.shape[2])
        self._decode(query, pages, out, scale=scale, window=window, softcap=softcap)
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

    def _decode(
        self,
        query: torch.Tensor,
        pages: Pages,
        out: torch.Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> None:
        if window not in self._decoding:
            self._decoding[window] = self._decodings(window, query)
        for group in self._decoding[window]:
            keys, values = (
                torch.unflatten(part, 0, (group.count, -1)).transpose(1, 2) for part in self._gather(pages, group.cells)
            )
            # The heads that share a key head are its queries: keys and values need no repeating.
            queries = torch.unflatten(query[group.rows], 1, (keys.shape[1], -1))
            answer = weigh(queries, keys, values, group.bias, scale=scale, softcap=softcap)
            out[group.rows] = answer.flatten(1, 2)

    def _gather(self, pages: Pages, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What lies in these cells, (cells, kv_heads, dim) each; valid until the next call."""
        return self._keys.gather(pages.keys, cells), self._values.gather(pages.values, cells)

    def _decodings(self, window: int | None, like: torch.Tensor) -> list[_Decoding]:
        lengths = self._layout.row_lengths[: self._layout.decodes]
        seen = [length if window is None else min(length, window) for length in lengths]
        groups = _alike(seen)
        if len(groups) == 1:
            return [self._decoding_of(slice(len(seen)), len(seen), max(seen), window, like)]
        return [
            self._decoding_of(torch.tensor(rows, device=like.device), len(rows), seen[rows[0]], window, like)
            for rows in groups
        ]

    def _decoding_of(
        self, chosen: torch.Tensor | slice, count: int, longest: int, window: int | None, like: torch.Tensor
    ) -> _Decoding:
        lengths = self._layout.lengths[chosen].long().unsqueeze(-1)
        firsts = torch.zeros_like(lengths) if window is None else (lengths - window).clamp(min=0)
        positions = firsts + torch.arange(longest, device=like.device)
        # A shorter row's last cell stands in where it has no more, and counts for nothing.
        cells = self._cells(self._layout.tables[chosen], positions.minimum(lengths - 1))
        return _Decoding(count, chosen, cells.flatten(), as_bias((positions >= lengths)[:, None, None], like))

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
        cells = self._cells(self._layout.tables[row : row + 1], positions).flatten()
        return _Reading(tokens, cells, causal_bias(new, keys, window, like))

    def _cells(self, tables: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Where the tokens at these positions lie, (rows, positions)."""
        blocks = tables.long().gather(1, positions // self._block_size)
        return blocks * self._block_size + positions % self._block_size


class _Scratch:
    """Memory that is used again: on a CPU, fresh pages of some MB cost more than what is written to them."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def gather(self, part: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """The keys or values of a layer, (blocks, block_size, kv_heads, dim), in these cells."""
        flat = part.flatten(0, 1)
        size = len(cells) * flat[0].numel()
        if self._memory.dtype != part.dtype or self._memory.device != part.device or self._memory.numel() < size:
            self._memory = part.new_empty(size + size // 4)
        return torch.index_select(flat, 0, cells, out=self._memory[:size].view(len(cells), *flat.shape[1:]))


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """The indices of the longest first, cut into groups whose members are of about one length."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and lengths[index] >= _ALIKE * lengths[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
