"""Keys and values of rows that decode, kept side by side from forward to forward.

While the same rows go on, a forward only adds their newest tokens, and reads what attention has to read anyway. They
are gathered from the pages again when rows come or go, or have outgrown their room.
"""

from __future__ import annotations

import torch

from worker.engines.causal.attention.base import Layout, Pages
from worker.engines.causal.attention.side_by_side import Group, Pair, Sides, cut

_HEADROOM = 32
"""Tokens that rows may grow by before they are gathered again."""


class Mirror:
    """Holds up to ``most`` tokens of each layer; of more, it holds one layer's at a time.

    A layer's groups share one memory: though each was large once, together they never were larger than that.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._layout: Layout | None = None
        self._asking: frozenset[int | None] = frozenset()
        self._groups: list[Group] = []
        self._layers: list[Pair] = []
        self._shared = Pair()
        self._next = self._depth = 0
        self._keeps = self._goes_on = self._begun = False

    def begin(self, layout: Layout, block_size: int, asking: frozenset[int | None]) -> None:
        """The layers of a forward with this layout follow; not all layers of a model need ask.

        ``asking`` are the windows of those that do. They are told apart by their order, so what is kept is theirs only
        as long as the same ones ask.
        """
        complete = self._next == self._depth if self._goes_on else self._next > 0
        complete = complete and asking == self._asking
        self._depth = self._next
        self._goes_on = self._keeps and complete and _go_on(self._layout, layout) and self._has_room(layout)
        self._layout, self._block_size, self._asking = layout, block_size, asking
        self._begun = False
        self._next = 0

    def sides(self, pages: Pages, key: torch.Tensor, value: torch.Tensor) -> list[Sides]:
        """The next layer's, whose ``pages`` have the new ``key`` and ``value`` already. Valid until the next call."""
        if not self._begun:
            self._regroup(key)
        if self._keeps and self._next == len(self._layers):
            self._layers.append(Pair(self._most))
        pair = self._layers[self._next] if self._keeps else self._shared
        self._next += 1
        if self._goes_on:
            return pair.add(self._groups, key, value)
        return pair.gather(self._groups, pages)

    def _has_room(self, layout: Layout) -> bool:
        return all(layout.row_lengths[row] <= group.capacity for group in self._groups for row in group.rows)

    def _regroup(self, like: torch.Tensor) -> None:
        assert self._layout is not None
        if self._goes_on:
            self._groups = [group.grown(self._layout, like) for group in self._groups]
        else:
            lengths = self._layout.row_lengths[: self._layout.decodes]
            # In a group no row is more than twice as long as another.
            needed = sum(2 * length + _HEADROOM for length in lengths)
            self._keeps = bool(self._layout.owners) and needed <= self._most
            headroom = _HEADROOM if self._keeps else 0
            self._groups = cut(self._layout, self._block_size, window=None, headroom=headroom, like=like)
        self._begun = True


def _go_on(before: Layout | None, now: Layout) -> bool:
    """Whether the rows that decode are those that decoded, and each has come on: from where it was then, at most.

    After a draft that was wrong it goes on before that; after a step that failed it has not come on.
    """
    if before is None or before.owners != now.owners:
        return False
    return all(_begin(before, row) < _begin(now, row) <= before.row_lengths[row] for row in range(now.decodes))


def _begin(layout: Layout, row: int) -> int:
    """The place of a row's first new token."""
    return layout.row_lengths[row] - (layout.row_starts[row + 1] - layout.row_starts[row])
