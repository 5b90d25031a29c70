"""From the rows of a plan to the tensors of a forward, in one upload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from worker.engines.causal.attention.base import Layout
from worker.engines.causal.blocks import Table
from worker.engines.causal.scheduler import Row
from worker.engines.causal.upload import Numbers, upload_all


@dataclass(frozen=True, slots=True)
class Packed:
    """What a forward needs, without padding.

    ``ids`` and ``positions``: (tokens,). What rows decode was drawn, and lies on the device only: ``ids`` has 0 for it.
    ``slots``: (rows,). ``keep``: (draws,), which tokens are followed by one that is drawn, for
    ``drawing``, (draws,), the slots of those rows.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    keep: torch.Tensor
    drawing: torch.Tensor
    layout: Layout


class Tables:
    """Every slot's blocks on the device: (slots + 1, width) int32; the last slot is nobody's, for padding."""

    def __init__(self, *, slots: int, width: int, device: torch.device) -> None:
        self.tensor = torch.zeros(slots + 1, width, dtype=torch.int32, device=device)
        self._known: list[tuple[Table, int, list[int]]] = [(Table(), 0, []) for _ in range(slots)]

    def news(self, rows: Sequence[Row]) -> Numbers:
        """What the device does not know of these rows' tables: (3, entries), each a slot, a column and a block."""
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
        return np.array(entries, dtype=np.int64).reshape(-1, 3).T

    def tell(self, news: torch.Tensor) -> None:
        """Let the device know."""
        if news.shape[1]:
            self.tensor.index_put_((news[0], news[1]), news[2].to(torch.int32))


def pack(rows: Sequence[Row], tables: Tables, block_size: int) -> Packed:
    """The tensors of these rows, those that decode first."""
    device = tables.tensor.device
    counts = np.array([row.tokens for row in rows])
    starts = np.concatenate([[0], counts.cumsum()])
    lengths = np.array([row.end for row in rows])
    slots = np.array([row.sequence.slot for row in rows])
    draws = np.array([row.draws for row in rows])
    ids, positions, cells, device_starts, device_lengths, device_slots, keep, drawing, news = upload_all(
        [
            _ids(rows),
            np.concatenate([np.arange(row.start, row.end) for row in rows]),
            np.concatenate([cells_of(row, block_size) for row in rows]),
            starts,
            lengths,
            slots,
            starts[1:][draws] - 1,
            slots[draws],
            tables.news(rows),
        ],
        device,
    )
    tables.tell(news)
    width = -(-int(lengths.max()) // block_size)
    layout = Layout(
        decodes=sum(row.decodes for row in rows),
        starts=device_starts.to(torch.int32),
        lengths=device_lengths.to(torch.int32),
        tables=tables.tensor[device_slots, :width],
        cells=cells,
        row_starts=starts.tolist(),
        row_lengths=lengths.tolist(),
        owners=[row.sequence.order for row in rows if row.decodes],
    )
    return Packed(ids, positions, device_slots, keep, drawing, layout)


def cells_of(row: Row, block_size: int) -> Numbers:
    """Where the keys and values of a row's tokens go, (tokens,)."""
    if row.tokens == 1:
        return np.array([cell_of(row, block_size)])
    places = np.arange(row.start, row.end)
    cells: Any = np.array(row.sequence.table.blocks)[places // block_size] * block_size + places % block_size
    return np.asarray(cells, dtype=np.int64)


def cell_of(row: Row, block_size: int) -> int:
    """Where the first of them goes."""
    return row.sequence.table.blocks[row.start // block_size] * block_size + row.start % block_size


def _ids(rows: Sequence[Row]) -> Numbers:
    ids: list[int] = []
    for row in rows:
        ids += [0] if row.decodes else row.sequence.tokens[row.start : row.end]
    return np.array(ids, dtype=np.int64)
