"""The keys and values of all members of a batch, dense: a (rows, heads, columns, width) tensor a layer and kind.

All members end at the same column, so one decode step writes one column, in place, and attention reads a view::

            start                end
      ········│······a a a a a a │
      ········│b b b b b b b b b │·········
      ········│··········c c c c │

To a model this looks like a batch that is padded on the left, so any causal model of transformers runs on it. A
leaver's row is taken by the last one. Free rows and columns hold zeros: what a mask hides is still multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

States: TypeAlias = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values, layer by layer."""

COLUMNS = 128
"""How many columns more than needed the tensors get when they are copied into larger ones, so that this is seldom."""


class Slab:
    """Such tensors. ``lengths`` are the members' tokens, row by row; ``cache`` is how transformers sees them."""

    def __init__(self) -> None:
        self._layers: list[_Layer] = []
        self.cache = Cache(layers=[])
        self.lengths: list[int] = []
        self.end = 0

    @property
    def start(self) -> int:
        """The first column that any member uses."""
        return self.end - max(self.lengths, default=0)

    def join(self, states: States, lengths: Sequence[int]) -> None:
        """Take in members that were read together, padded on the left."""
        if not self._layers:
            self._layers = [_Layer(self, keys, values) for keys, values in states]
            self.cache = Cache(layers=list(self._layers))
        rows = len(self.lengths)
        self._fit(rows + len(lengths), max(lengths))
        for layer, (keys, values) in zip(self._layers, states, strict=True):
            for index, length in enumerate(lengths):
                columns = slice(self.end - length, self.end)
                layer.all_keys[rows + index, :, columns] = keys[index, :, -length:]
                layer.all_values[rows + index, :, columns] = values[index, :, -length:]
        self.lengths += lengths

    def leave(self, row: int) -> None:
        """Free a row; the last row takes its place."""
        last = len(self.lengths) - 1
        columns = slice(self.start, self.end)
        for layer in self._layers:
            for states in (layer.all_keys, layer.all_values):
                if row != last:
                    states[row, :, columns] = states[last, :, columns]
                states[last, :, columns] = 0
        self.lengths[row] = self.lengths[last]
        del self.lengths[last]

    def make_room(self) -> None:
        """Make sure that every member can have one more token."""
        self._fit(len(self.lengths), ahead=1)

    def advance(self) -> None:
        """Every member has one more token, whose keys and values are in."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def mask(self, device: torch.device) -> torch.Tensor | None:
        """(rows, columns): 1 where a column is a member's own, the next one included; None if all of them are."""
        if len(set(self.lengths)) == 1:
            return None
        firsts = torch.tensor([self.end - self.start - length for length in self.lengths], device=device)
        columns = torch.arange(self.end - self.start + 1, device=device)
        return (columns >= firsts.unsqueeze(-1)).long()

    def _fit(self, rows: int, longest: int = 0, ahead: int = 0) -> None:
        """Make sure of so many rows, of columns for ``longest`` tokens that end where the others do, and of more."""
        has_rows, has_columns = self._layers[0].all_keys.shape[0], self._layers[0].all_keys.shape[2]
        if has_rows >= rows and longest <= self.end <= has_columns - ahead:
            return
        end = max(longest, self.end - self.start)
        for layer in self._layers:
            layer.all_keys = self._moved(layer.all_keys, rows, end)
            layer.all_values = self._moved(layer.all_values, rows, end)
        self.end = end

    def _moved(self, states: torch.Tensor, rows: int, end: int) -> torch.Tensor:
        members, live = len(self.lengths), self.end - self.start
        moved = states.new_zeros(_with_spare(rows), states.shape[1], end + COLUMNS, states.shape[3])
        moved[:members, :, end - live : end] = states[:members, :, self.start : self.end]
        return moved


class _Layer(DynamicLayer):
    """One layer's tensors, empty at first; which part of them is in use is the same in all layers of a slab."""

    def __init__(self, slab: Slab, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # it has no annotations
        self._slab = slab
        self.all_keys = keys[:0, :, :0]
        self.all_values = values[:0, :, :0]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token a member, (members, heads, 1, width); gives all of the members' keys and values."""
        members, start, end = len(self._slab.lengths), self._slab.start, self._slab.end
        self.all_keys[:members, :, end : end + 1] = key_states
        self.all_values[:members, :, end : end + 1] = value_states
        return self.all_keys[:members, :, start : end + 1], self.all_values[:members, :, start : end + 1]

    def get_seq_length(self) -> int:
        """How many columns are in use."""
        return self._slab.end - self._slab.start

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many columns a mask has with the new ones, and which one it begins with."""
        return self._slab.end - self._slab.start + query_length, 0


def cells(rows: int, longest: int) -> int:
    """For how many tokens the tensors have room, at most, while there are so many rows of ``longest`` tokens."""
    return _with_spare(rows) * (longest + COLUMNS)


def _with_spare(rows: int) -> int:
    return rows + rows // 4
