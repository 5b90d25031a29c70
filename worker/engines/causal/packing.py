"""From a step's numbers to the tensors of a forward, in one upload."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.engines.causal.attention.base import Layout
from worker.engines.causal.step import Step
from worker.engines.causal.upload import upload_all


@dataclass(frozen=True, slots=True)
class Packed:
    """What a forward needs, on its device: of a step's numbers those of the same name."""

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

    def tell(self, news: torch.Tensor) -> None:
        """Let the device know of a step's news."""
        if news.shape[1]:
            self.tensor.index_put_((news[0], news[1]), news[2].to(torch.int32))


def pack(step: Step, tables: Tables, block_size: int) -> Packed:
    """The tensors of this step."""
    ids, positions, cells, starts, lengths, slots, keep, drawing, news = upload_all(
        [
            step.ids,
            step.positions,
            step.cells,
            step.starts,
            step.lengths,
            step.slots,
            step.keep,
            step.drawing,
            step.news,
        ],
        tables.tensor.device,
    )
    tables.tell(news)
    width = -(-int(step.lengths.max()) // block_size)
    layout = Layout(
        decodes=step.decodes,
        starts=starts.to(torch.int32),
        lengths=lengths.to(torch.int32),
        tables=tables.tensor[slots, :width],
        cells=cells,
        row_starts=step.starts.tolist(),
        row_lengths=step.lengths.tolist(),
        owners=step.owners.tolist(),
    )
    return Packed(ids, positions, slots, keep, drawing, layout)
