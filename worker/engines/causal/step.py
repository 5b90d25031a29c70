"""One step in numbers: what a device has to be told of a plan, the same for every device that takes part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from worker.engines.causal.blocks import Table
from worker.engines.causal.scheduler import Plan, Row
from worker.engines.causal.upload import Numbers

UNTOLD = -1


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of a plan, without padding; those that decode come first.

    ``ids`` and ``positions``, (tokens,): what a row decodes may lie on the device only, where it was drawn: its id is
    then `UNTOLD`.
    ``cells``, (tokens,): where each token's key and value go, block * block_size + place.
    ``starts``, (rows + 1,): where a row's tokens begin. ``lengths``, (rows,): its tokens in the cache after this step.
    ``slots``, (rows,): its place in the batch. ``owners``, (rows that decode,): a number that its sequence has and no
    other ever had.
    ``keep``, (draws,): which tokens are followed by one that is drawn, for ``drawing``, (draws,), the slots of those.
    A row that has drafts draws after each of them.
    ``news``, (3, entries): what tables have changed, each a slot, a column and a block.
    ``copies``, (2, copies): sources and targets of blocks that are to be copied before all else.
    """

    ids: Numbers
    positions: Numbers
    cells: Numbers
    starts: Numbers
    lengths: Numbers
    slots: Numbers
    owners: Numbers
    keep: Numbers
    drawing: Numbers
    news: Numbers
    copies: Numbers

    @property
    def decodes(self) -> int:
        """How many rows decode."""
        return len(self.owners)

    @property
    def only_decodes(self) -> bool:
        """Whether all rows do."""
        return len(self.owners) == len(self.slots)

    @property
    def told(self) -> bool:
        """Whether all ids are here. If not, rows that decode have a token each, which is the last that was drawn."""
        return not bool((self.ids == UNTOLD).any())


class StepWriter:
    """Writes plans down as steps. It remembers what devices know of each slot's blocks."""

    def __init__(self, *, slots: int, block_size: int) -> None:
        self._block_size = block_size
        self._slots = slots
        self.forget()

    def forget(self) -> None:
        """A step failed, and perhaps before anybody was told of its news: from now on nothing is known."""
        self._known: list[tuple[Table, int, list[int]]] = [(Table(), 0, []) for _ in range(self._slots)]

    def write(self, plan: Plan) -> Step:
        """The next step. Devices have to be told of every one."""
        rows = plan.rows
        decoding = [row for row in rows if row.decodes]
        reading = rows[len(decoding) :]
        starts = np.array([0, *(row.tokens for row in rows)]).cumsum()
        slots = _numbers(row.sequence.slot for row in rows)
        draws = _numbers(row.draws_of for row in rows)
        places = [(row, place) for row in decoding for place in range(row.start, row.start + row.tokens)]
        return Step(
            ids=_joined(_next_ids(decoding), *(row.sequence.tokens[row.start : row.end] for row in reading)),
            positions=_joined([place for _, place in places], *(np.arange(row.start, row.end) for row in reading)),
            cells=_joined([self._cell(*each) for each in places], *(self._cells(row) for row in reading)),
            starts=starts,
            lengths=_numbers(row.end + len(row.draft) for row in rows),
            slots=slots,
            owners=_numbers(row.sequence.order for row in decoding),
            keep=np.repeat(starts[1:] - draws.cumsum(), draws) + np.arange(draws.sum()),
            drawing=np.repeat(slots, draws),
            news=self._news(rows),
            copies=_numbers_of([(copy.source, copy.target) for copy in plan.copies], 2),
        )

    def _cell(self, row: Row, place: int) -> int:
        block, inside = divmod(place, self._block_size)
        return row.sequence.table.blocks[block] * self._block_size + inside

    def _cells(self, row: Row) -> Numbers:
        places = np.arange(row.start, row.end)
        blocks: Any = np.array(row.sequence.table.blocks)[places // self._block_size]
        return np.asarray(blocks * self._block_size + places % self._block_size, dtype=np.int64)

    def _news(self, rows: Sequence[Row]) -> Numbers:
        entries: list[tuple[int, int, int]] = []
        for row in rows:
            table, slot = row.sequence.table, row.sequence.slot
            last, version, known = self._known[slot]
            if last is table and version == table.version:
                continue
            same = next((i for i, (a, b) in enumerate(zip(known, table.blocks, strict=False)) if a != b), None)
            first = min(len(known), len(table.blocks)) if same is None else same
            entries += [(slot, column, table.blocks[column]) for column in range(first, len(table.blocks))]
            self._known[slot] = table, table.version, list(table.blocks)
        return _numbers_of(entries, 3)


def _next_ids(decoding: Sequence[Row]) -> list[int]:
    ids: list[int] = []
    for row in decoding:
        tokens = row.sequence.tokens
        ids.append(tokens[row.start] if row.start < len(tokens) else UNTOLD)
        ids += row.draft
    return ids


def _numbers(values: Iterable[int]) -> Numbers:
    return np.fromiter(values, dtype=np.int64)


def _numbers_of(entries: Sequence[tuple[int, ...]], width: int) -> Numbers:
    return np.array(entries, dtype=np.int64).reshape(-1, width).T


def _joined(*pieces: Sequence[int] | Numbers) -> Numbers:
    return np.concatenate([np.asarray(piece, dtype=np.int64) for piece in pieces])
