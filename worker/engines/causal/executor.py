"""Runs plans on the device: launch a step, and read what it drew later."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from worker.engines.causal.answer import Chances
from worker.engines.causal.attention.base import Layout
from worker.engines.causal.cache import Cache
from worker.engines.causal.graphs import Graphs
from worker.engines.causal.packing import Tables, pack
from worker.engines.causal.paged import attending
from worker.engines.causal.sampler import Drawn, Entry, Features, Sampler
from worker.engines.causal.scheduler import Plan, Row

NOT_A_NUMBER = -1


class Outcome(NamedTuple):
    """What a row drew: its token, None if the model's output was not a number; and its chances, if asked for."""

    row: Row
    token: int | None
    chances: Chances | None


class Flight:
    """A step that was launched. Its results are on their way to the host."""

    def __init__(self, rows: Sequence[Row], drawn: Drawn) -> None:
        self._rows = rows
        self._done = torch.cuda.Event() if drawn.tokens.is_cuda else None
        self._tokens = _fetch(torch.where(drawn.healthy, drawn.tokens, NOT_A_NUMBER))
        self._logprobs = None if drawn.logprobs is None else _fetch(drawn.logprobs)
        self._top = None if drawn.top is None else (_fetch(drawn.top[0]), _fetch(drawn.top[1]))
        if self._done:
            self._done.record()

    def land(self) -> list[Outcome]:
        """Wait for the results."""
        if self._done:
            self._done.synchronize()
        # A graph's batch may have been filled up with rows of nobody.
        tokens = self._tokens[: len(self._rows)].tolist()
        return [
            Outcome(row, None if token == NOT_A_NUMBER else token, self._chances(index))
            for index, (row, token) in enumerate(zip(self._rows, tokens, strict=True))
        ]

    def _chances(self, index: int) -> Chances | None:
        if self._logprobs is None:
            return None
        top: list[tuple[int, float]] = []
        if self._top is not None:
            ids, logprobs = self._top
            top = list(zip(ids[index].tolist(), logprobs[index].tolist(), strict=True))
        return Chances(float(self._logprobs[index]), top)


class Executor:
    """A model, its cache and its sampler. ``slots`` sequences are in it at once, none longer than ``context`` tokens.

    A step that only decodes is replayed from a graph, where there are any.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        cache: Cache,
        sampler: Sampler,
        *,
        slots: int,
        context: int,
        buckets: Sequence[int] = (),
    ) -> None:
        self._model = model
        self._cache = cache
        self._sampler = sampler
        self._device = model.device
        width = -(-context // cache.size.block_size)
        self._tables = Tables(slots=slots, width=width, device=self._device)
        self._last = torch.zeros(slots + 1, dtype=torch.long, device=self._device)
        self._graphs = Graphs(buckets, self._decode, nobody=slots, device=self._device)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Capture what most steps replay."""
        self._graphs.warm_up()

    @torch.inference_mode()
    def launch(self, plan: Plan, entries: Sequence[Entry]) -> Flight:
        """Start a step; ``entries`` are the wishes of those that it admits."""
        self._sampler.admit(entries)
        self._cache.copy(plan.copies)
        rows = plan.rows
        features = self._sampler.features([row.sequence.slot for row in rows if row.draws])
        if all(row.decodes for row in rows) and self._graphs.has(len(rows), features):
            drawn = self._graphs.replay(rows, self._tables, self._cache.size.block_size, features)
        else:
            rows = sorted(rows, key=_place)
            drawn = self._run(rows, features)
        return Flight([row for row in rows if row.draws], drawn)

    def release(self, slot: int) -> None:
        """A slot is free."""
        self._sampler.release(slot)

    def _run(self, rows: Sequence[Row], features: Features) -> Drawn:
        packed = pack(rows, self._tables, self._cache.size.block_size)
        ids, decodes = packed.ids, packed.layout.decodes
        if decodes:
            ids[:decodes] = self._last[packed.slots[:decodes]]
        logits = self._forward(ids, packed.positions, packed.layout, packed.keep)
        if not len(packed.drawing):
            return Drawn(packed.drawing, packed.drawing.bool(), None, None)
        return self._draw(logits, packed.drawing, features)

    def _decode(
        self,
        slots: torch.Tensor,
        positions: torch.Tensor,
        cells: torch.Tensor,
        starts: torch.Tensor,
        features: Features,
    ) -> Drawn:
        """A step in which every slot of these decodes; with nothing in it that waits for the device."""
        rows = slots.shape[0]
        width = self._tables.tensor.shape[1]
        layout = Layout(
            decodes=rows,
            starts=starts,
            lengths=(positions + 1).to(torch.int32),
            tables=self._tables.tensor[slots],
            cells=cells,
            row_starts=range(rows + 1),
            row_lengths=[width * self._cache.size.block_size] * rows,
        )
        return self._draw(self._forward(self._last[slots], positions, layout, 0), slots, features)

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, layout: Layout, keep: torch.Tensor | int
    ) -> torch.Tensor:
        self._cache.begin(layout)
        with attending(self._cache), torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            output = self._model(
                input_ids=ids.unsqueeze(0), position_ids=positions.unsqueeze(0), use_cache=False, logits_to_keep=keep
            )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _draw(self, logits: torch.Tensor, slots: torch.Tensor, features: Features) -> Drawn:
        drawn = self._sampler.draw(logits, slots, features)
        self._last.index_copy_(0, slots, drawn.tokens)
        return drawn


def _place(row: Row) -> tuple[bool, int]:
    """Rows that decode first, the longest of them first: rows of about one length are then neighbours."""
    return (False, -row.end) if row.decodes else (True, 0)


def _fetch(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_cuda:
        return tensor
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return there.copy_(tensor, non_blocking=True)
