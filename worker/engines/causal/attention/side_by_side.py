"""Rows that decode, cut into groups of about one length whose keys and values lie side by side, not in pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from worker.engines.causal.attention.base import Layout, Pages
from worker.engines.causal.attention.scores import as_bias
from worker.engines.causal.upload import Numbers

_ALIKE = 0.5
"""Rows are one group while the shortest sees at least this part of what the longest sees."""


@dataclass(frozen=True, slots=True)
class News:
    """What a forward brings of a group's rows, and what that sees of up to ``longest`` tokens of each.

    ``tokens`` of the forward are theirs, and ``places``, (tokens,), where of rows * capacity those are. ``queries``,
    (rows * width,), are the same tokens, a row's last again and again until all rows have as many. Those that follow
    each other are a slice, so that nothing has to be picked out, or put back in its place. ``bias``,
    (rows, 1, width, longest): -inf for what they do not see.
    """

    longest: int
    tokens: torch.Tensor | slice
    places: torch.Tensor
    queries: torch.Tensor | slice
    width: int
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class Group:
    """``rows`` with room for ``capacity`` tokens each.

    ``cells``, (rows * capacity,): where what they see lies in the pages.
    """

    rows: Sequence[int]
    capacity: int
    cells: torch.Tensor
    news: News

    def grown(self, layout: Layout, like: torch.Tensor) -> Group:
        """The same rows in a later forward."""
        return replace(self, news=_news(layout, self.rows, self.capacity, window=None, like=like))


def cut(layout: Layout, block_size: int, *, window: int | None, headroom: int, like: torch.Tensor) -> list[Group]:
    """All rows that decode. ``headroom``: how many tokens more than now there is room for, a row."""
    seen = [layout.row_lengths[row] - _first(layout, row, window) for row in range(layout.decodes)]
    groups = []
    for rows in _alike(seen):
        capacity = max(seen[row] for row in rows) + headroom
        firsts, lengths = _column(_first(layout, row, window) for row in rows), _lengths(layout, rows)
        # A shorter row's last cell stands in where it has no more, and counts for nothing.
        positions = torch.from_numpy(np.minimum(firsts + np.arange(capacity), lengths - 1)).to(like.device)
        cells = cells_of(layout.tables[rows], positions, block_size).flatten()
        groups.append(Group(rows, capacity, cells, _news(layout, rows, capacity, window=window, like=like)))
    return groups


def cells_of(tables: torch.Tensor, positions: torch.Tensor, block_size: int) -> torch.Tensor:
    """Where the tokens at these positions lie, (rows, positions)."""
    blocks = tables.long().gather(1, positions // block_size)
    return blocks * block_size + positions % block_size


class Memory:
    """Room for keys, or values. It is used again: on a CPU, new memory costs more than what is written to it.

    It lets what it has to hold grow by a quarter before it takes more, but takes nothing beyond ``most`` tokens for
    that.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._memory = torch.empty(0)

    def gather(self, part: torch.Tensor, *cells: torch.Tensor) -> list[torch.Tensor]:
        """What lies in these cells of a layer's (blocks, block_size, kv_heads, dim): (cells, kv_heads, dim) of each."""
        flat = part.flatten(0, 1)
        counts = [len(each) for each in cells]
        room = self._room(part, sum(counts), flat[0].numel()).view(-1, *flat.shape[1:])
        return [torch.index_select(flat, 0, each, out=out) for each, out in zip(cells, room.split(counts), strict=True)]

    def _room(self, like: torch.Tensor, tokens: int, width: int) -> torch.Tensor:
        fits = self._memory.numel() >= tokens * width
        if self._memory.dtype != like.dtype or self._memory.device != like.device or not fits:
            more = tokens + tokens // 4
            more = more if self._most is None else max(tokens, min(more, self._most))
            # Given back first, so that there are never both.
            self._memory = torch.empty(0)
            self._memory = like.new_empty(more * width)
        return self._memory[: tokens * width]


class Sides(NamedTuple):
    """A group's keys and values in one layer, (rows, longest, kv_heads, dim) each."""

    group: Group
    keys: torch.Tensor
    values: torch.Tensor


class Pair:
    """Memory for the keys and values of one layer: all groups', one after the other, wherever they are cut."""

    def __init__(self, most: int | None = None) -> None:
        self._keys = Memory(most)
        self._values = Memory(most)
        self._last: list[tuple[torch.Tensor, torch.Tensor]] = []

    def gather(self, groups: Sequence[Group], pages: Pages) -> list[Sides]:
        """Take all that the groups see from its pages."""
        cells = [group.cells for group in groups]
        self._last.clear()
        keys, values = self._keys.gather(pages.keys, *cells), self._values.gather(pages.values, *cells)
        self._last += zip(keys, values, strict=True)
        return self._sides(groups)

    def add(self, groups: Sequence[Group], key: torch.Tensor, value: torch.Tensor) -> list[Sides]:
        """Take what is new of what the groups see, which are those gathered last."""
        for group, (keys, values) in zip(groups, self._last, strict=True):
            keys.index_copy_(0, group.news.places, key[group.news.tokens])
            values.index_copy_(0, group.news.places, value[group.news.tokens])
        return self._sides(groups)

    def _sides(self, groups: Sequence[Group]) -> list[Sides]:
        return [
            Sides(group, _in_use(keys, group), _in_use(values, group))
            for group, (keys, values) in zip(groups, self._last, strict=True)
        ]


def _in_use(part: torch.Tensor, group: Group) -> torch.Tensor:
    return torch.unflatten(part, 0, (len(group.rows), group.capacity))[:, : group.news.longest]


def _news(layout: Layout, rows: Sequence[int], capacity: int, *, window: int | None, like: torch.Tensor) -> News:
    starts, counts = _column(layout.row_starts[row] for row in rows), _column(_count(layout, row) for row in rows)
    firsts, lengths = _column(_first(layout, row, window) for row in rows), _lengths(layout, rows)
    longest, width = int((lengths - firsts).max()), int(counts.max())
    step = np.arange(width)
    tokens = starts + np.minimum(step, counts - 1)
    positions = lengths - starts + tokens - counts
    places = np.arange(len(rows))[:, None] * capacity + positions - firsts
    real = step < counts
    keys = (firsts + np.arange(longest))[:, None]
    unseen = keys > positions[..., None]
    if window is not None:
        unseen |= keys <= positions[..., None] - window
    queries, own = (_picked(each, like.device) for each in (tokens.ravel(), tokens[real]))
    where = torch.from_numpy(places[real]).to(like.device)
    bias = as_bias(torch.from_numpy(unseen[:, None]).to(like.device), like)
    return News(longest, own, where, queries, width, bias)


def _picked(tokens: Numbers, device: torch.device) -> torch.Tensor | slice:
    first, last = int(tokens[0]), int(tokens[-1])
    if np.array_equal(tokens, np.arange(first, last + 1)):
        return slice(first, last + 1)
    return torch.from_numpy(tokens).to(device)


def _first(layout: Layout, row: int, window: int | None) -> int:
    """The first of its tokens that one of a row's new tokens sees."""
    if window is None:
        return 0
    return max(0, layout.row_lengths[row] - _count(layout, row) + 1 - window)


def _count(layout: Layout, row: int) -> int:
    """How many of its tokens are new."""
    return layout.row_starts[row + 1] - layout.row_starts[row]


def _lengths(layout: Layout, rows: Sequence[int]) -> Numbers:
    return _column(layout.row_lengths[row] for row in rows)


def _column(numbers: Iterable[int]) -> Numbers:
    return np.fromiter(numbers, dtype=np.int64)[:, None]


def _alike(lengths: Sequence[int]) -> list[list[int]]:
    """The indices by falling length, cut where the next is much shorter; those of a group in their own order."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and lengths[index] >= _ALIKE * lengths[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return [sorted(group) for group in groups]
