"""Rows that decode, cut into groups of about one length whose keys and values lie side by side, not in pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from worker.engines.causal.attention.base import Layout, Pages
from worker.engines.causal.attention.scores import as_bias

_ALIKE = 0.5
"""Rows are one group while the shortest sees at least this part of what the longest sees."""


@dataclass(frozen=True, slots=True)
class Group:
    """``count`` rows that see up to ``longest`` tokens each and have room for ``capacity``.

    ``rows`` of the forward; those that follow each other are a slice, so that nothing has to be picked out, or put back
    in its place. ``cells``, (count * capacity,): where what they see lies in the pages. ``news``, (count,): which of
    count * capacity is a row's newest. ``bias``, (count, 1, 1, longest): -inf for what a row does not see.
    """

    rows: torch.Tensor | slice
    count: int
    longest: int
    capacity: int
    cells: torch.Tensor
    news: torch.Tensor
    bias: torch.Tensor

    def grown(self, layout: Layout, like: torch.Tensor) -> Group:
        """The same rows with one more token each."""
        lengths = layout.lengths[self.rows].long()
        longest = self.longest + 1
        return replace(self, longest=longest, news=self.news + 1, bias=_bias(lengths, longest, like))


def cut(layout: Layout, block_size: int, *, window: int | None, headroom: int, like: torch.Tensor) -> list[Group]:
    """All rows that decode. ``headroom``: how many tokens more than now there is room for, a row."""
    lengths = layout.row_lengths[: layout.decodes]
    seen = [seen_of(length, window) for length in lengths]
    return [_group(layout, rows, block_size, window=window, headroom=headroom, like=like) for rows in _alike(seen)]


def seen_of(length: int, window: int | None) -> int:
    """How many of its tokens a row's newest sees."""
    return length if window is None else min(length, window)


def cells_of(tables: torch.Tensor, positions: torch.Tensor, block_size: int) -> torch.Tensor:
    """Where the tokens at these positions lie, (rows, positions)."""
    blocks = tables.long().gather(1, positions // block_size)
    return blocks * block_size + positions % block_size


class Memory:
    """Room for keys, or values. It is used again: on a CPU, new memory costs more than what is written to it."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)
        self._last = self._memory

    def gather(self, part: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """What lies in these cells of a layer's (blocks, block_size, kv_heads, dim), (cells, kv_heads, dim)."""
        flat = part.flatten(0, 1)
        size = len(cells) * flat[0].numel()
        if self._memory.dtype != part.dtype or self._memory.device != part.device or self._memory.numel() < size:
            self._memory = part.new_empty(size + size // 4)
        self._last = self._memory[:size].view(len(cells), *flat.shape[1:])
        return torch.index_select(flat, 0, cells, out=self._last)

    def add(self, new: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Put new tokens, (tokens, kv_heads, dim), among those gathered last."""
        return self._last.index_copy_(0, places, new)


class Sides(NamedTuple):
    """A group's keys and values in one layer, (count, longest, kv_heads, dim) each."""

    group: Group
    keys: torch.Tensor
    values: torch.Tensor


class Pair:
    """Memory for a group's keys and values in one layer."""

    def __init__(self) -> None:
        self._keys = Memory()
        self._values = Memory()

    def gather(self, group: Group, pages: Pages) -> Sides:
        """Take all that the group sees from its pages."""
        keys, values = self._keys.gather(pages.keys, group.cells), self._values.gather(pages.values, group.cells)
        return Sides(group, _in_use(keys, group), _in_use(values, group))

    def add(self, group: Group, key: torch.Tensor, value: torch.Tensor) -> Sides:
        """Take what is new of what the group sees."""
        keys = self._keys.add(key[group.rows], group.news)
        values = self._values.add(value[group.rows], group.news)
        return Sides(group, _in_use(keys, group), _in_use(values, group))


def pairs_for(groups: Sequence[Group], pairs: list[Pair]) -> list[tuple[Group, Pair]]:
    """Each group with a pair of its own; as many as it takes are added to ``pairs``."""
    pairs += [Pair() for _ in range(len(groups) - len(pairs))]
    return list(zip(groups, pairs, strict=False))


def _in_use(part: torch.Tensor, group: Group) -> torch.Tensor:
    return torch.unflatten(part, 0, (group.count, group.capacity))[:, : group.longest]


def _group(
    layout: Layout, rows: list[int], block_size: int, *, window: int | None, headroom: int, like: torch.Tensor
) -> Group:
    chosen = slice(rows[0], rows[-1] + 1) if rows == list(range(rows[0], rows[-1] + 1)) else _index(rows, like)
    longest = max(seen_of(layout.row_lengths[row], window) for row in rows)
    capacity = longest + headroom
    lengths = layout.lengths[chosen].long()
    firsts = torch.zeros_like(lengths) if window is None else (lengths - window).clamp(min=0)
    positions = firsts.unsqueeze(-1) + torch.arange(capacity, device=like.device)
    # A shorter row's last cell stands in where it has no more, and counts for nothing.
    cells = cells_of(layout.tables[chosen], positions.minimum(lengths.unsqueeze(-1) - 1), block_size)
    news = torch.arange(len(rows), device=like.device) * capacity + lengths - firsts - 1
    bias = _bias(lengths - firsts, longest, like)
    return Group(chosen, len(rows), longest, capacity, cells.flatten(), news, bias)


def _index(rows: list[int], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(rows, device=like.device)


def _bias(seen: torch.Tensor, longest: int, like: torch.Tensor) -> torch.Tensor:
    unseen = torch.arange(longest, device=like.device) >= seen.unsqueeze(-1)
    return as_bias(unseen[:, None, None], like)


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """The indices by falling length, cut where the next is much shorter; those of a group in their own order."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and lengths[index] >= _ALIKE * lengths[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return [sorted(group) for group in groups]
