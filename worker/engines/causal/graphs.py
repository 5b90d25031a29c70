"""Steps that only decode, captured once as CUDA graphs and replayed.

Launching a model's kernels one by one takes the host longer than the device needs to run them. A graph is launched as
one. Its shapes are fixed, so there is one for some batch sizes, and a smaller batch is filled up with rows of nobody.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from worker.engines.causal.packing import Tables
from worker.engines.causal.sampler import GREEDY, Drawn, Features
from worker.engines.causal.step import Step
from worker.engines.causal.upload import upload_all

Result: TypeAlias = torch.Tensor | Drawn
Decode: TypeAlias = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, Features], Result
]
"""Slots, positions, cells and starts of (rows,) sequences that decode, (rows + 1,) the last; and what the stage before
gave for them, (rows, width)."""

MOST = 128
"""How many are kept. Rare mixtures of features beyond it run uncaptured."""


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: torch.Tensor
    given: torch.Tensor | None
    result: Result


def buckets(slots: int) -> list[int]:
    """The batch sizes worth a graph: padding costs little where they are large."""
    sizes = [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128, *range(160, 513, 32), *range(576, 4097, 64)]
    return [size for size in sizes if size < slots] + [slots]


class Graphs:
    """``decode`` for batch sizes of ``buckets``; rows that fill a batch up have the slot ``nobody``.

    ``like``, (1, width), is one of those that a stage is given; None where there is none before it.
    """

    def __init__(
        self,
        buckets: Sequence[int],
        decode: Decode,
        *,
        nobody: int,
        device: torch.device,
        like: torch.Tensor | None = None,
    ) -> None:
        self._buckets = buckets
        self._decode = decode
        self._nobody = nobody
        self._device = device
        self._like = like
        self._pool = torch.cuda.graph_pool_handle() if buckets else None
        self._captured: dict[tuple[int, Features], _Captured] = {}

    def warm_up(self) -> None:
        """Capture greedy decoding in every size, the largest first, so that the others fit into its memory."""
        for bucket in reversed(self._buckets):
            self._capture(bucket, GREEDY)

    def has(self, rows: int, features: Features) -> bool:
        """Whether there is a graph for so many rows, or could be one."""
        if not self._buckets or rows > self._buckets[-1]:
            return False
        return (self._bucket(rows), features) in self._captured or len(self._captured) < MOST

    def replay(self, step: Step, tables: Tables, given: torch.Tensor | None, features: Features) -> Result:
        """Run a step that only decodes. What it gives is overwritten by the next replay of the same graph."""
        rows = len(step.slots)
        bucket = self._bucket(rows)
        captured = self._captured.get((bucket, features)) or self._capture(bucket, features)
        inputs = np.zeros((3, bucket), dtype=np.int64)
        inputs[0] = self._nobody
        inputs[:, :rows] = step.slots, step.positions, step.cells
        uploaded, news = upload_all([inputs, step.news], self._device)
        tables.tell(news)
        captured.inputs.copy_(uploaded)
        if captured.given is not None and given is not None:
            captured.given[:rows] = given
        captured.graph.replay()
        return captured.result if isinstance(captured.result, Drawn) else captured.result[:rows]

    def _bucket(self, rows: int) -> int:
        return self._buckets[bisect_left(self._buckets, rows)]

    def _capture(self, bucket: int, features: Features) -> _Captured:
        inputs = torch.zeros(3, bucket, dtype=torch.long, device=self._device)
        inputs[0] = self._nobody
        given = None if self._like is None else self._like.repeat(bucket, 1)
        starts = torch.arange(bucket + 1, dtype=torch.int32, device=self._device)
        # Twice for real: what is compiled or chosen at the first call must not be captured.
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._decode(inputs[0], inputs[1], inputs[2], starts, given, features)
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=stream):
            result = self._decode(inputs[0], inputs[1], inputs[2], starts, given, features)
        captured = self._captured[bucket, features] = _Captured(graph, inputs, given, result)
        return captured
