"""Runs steps on one device, through the layers that are there: all of a model's, or those of one stage of several."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from worker.engines.causal.attention.base import Layout
from worker.engines.causal.cache import Cache
from worker.engines.causal.graphs import Graphs
from worker.engines.causal.packing import Tables, pack
from worker.engines.causal.paged import attending
from worker.engines.causal.part import Part
from worker.engines.causal.sampler import GREEDY, Drawn, Entry, Features, Sampler
from worker.engines.causal.step import Step


class Stage:
    """A part of a model, its cache, and a sampler where it is the last.

    ``slots`` sequences are in it at once, none longer than ``context`` tokens. A step that only decodes is replayed
    from a graph, where there are any.
    """

    def __init__(
        self,
        part: Part,
        cache: Cache,
        sampler: Sampler | None,
        *,
        slots: int,
        context: int,
        buckets: Sequence[int] = (),
    ) -> None:
        self._part = part
        self._cache = cache
        self._sampler = sampler
        self._device = part.device
        width = -(-context // cache.size.block_size)
        self._tables = Tables(slots=slots, width=width, device=self._device)
        self._last = torch.zeros(slots + 1, dtype=torch.long, device=self._device)
        like = None if part.first else part.inputs(1)
        self._graphs = Graphs(buckets, self._decode, nobody=slots, device=self._device, like=like)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Capture what most steps replay."""
        self._graphs.warm_up()

    def admit(self, entries: Sequence[Entry]) -> None:
        """Let the sampler know the wishes of those that come in with the next step."""
        if self._sampler is not None:
            self._sampler.admit(entries)

    def release(self, slots: Sequence[int]) -> None:
        """These are free."""
        if self._sampler is not None:
            self._sampler.release(slots)

    @torch.inference_mode()
    def know(self, slots: torch.Tensor, tokens: torch.Tensor) -> None:
        """What these slots, (draws,), drew where the last layers are: their next steps begin with it."""
        self._last.index_copy_(0, slots, tokens)

    @torch.inference_mode()
    def run(self, step: Step, given: torch.Tensor | None = None) -> tuple[torch.Tensor | None, Drawn | None]:
        """Start a step; ``given`` is what the stage before gave for it, (tokens, width).

        What the next stage is to be given, or else what was drawn, in the order of ``drawing``; more rows may follow,
        which are nobody's. The next step may overwrite both.
        """
        self._cache.copy(step.copies)
        features = GREEDY if self._sampler is None else self._sampler.features(step.drawing)
        if step.only_decodes and self._graphs.has(len(step.slots), features):
            result = self._graphs.replay(step, self._tables, given, features)
        else:
            result = self._run(step, given, features)
        return (None, result) if isinstance(result, Drawn) else (result, None)

    def _run(self, step: Step, given: torch.Tensor | None, features: Features) -> torch.Tensor | Drawn:
        packed = pack(step, self._tables, self._cache.size.block_size)
        if given is None:
            given, decodes = packed.ids, packed.layout.decodes
            if not step.told:
                given[:decodes] = self._last[packed.slots[:decodes]]
        out = self._forward(given, packed.positions, packed.layout, packed.keep)
        if self._sampler is None:
            return out
        if not len(packed.drawing):
            return Drawn(packed.drawing, packed.drawing.bool(), None, None)
        return self._draw(self._sampler, out, packed.drawing, packed.positions[packed.keep], features)

    def _decode(  # noqa: PLR0917 - what it is called by has no keywords
        self,
        slots: torch.Tensor,
        positions: torch.Tensor,
        cells: torch.Tensor,
        starts: torch.Tensor,
        given: torch.Tensor | None,
        features: Features,
    ) -> torch.Tensor | Drawn:
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
        out = self._forward(self._last[slots] if given is None else given, positions, layout, 0)
        return out if self._sampler is None else self._draw(self._sampler, out, slots, positions, features)

    def _forward(
        self, given: torch.Tensor, positions: torch.Tensor, layout: Layout, keep: torch.Tensor | int
    ) -> torch.Tensor:
        self._cache.begin(layout)
        with attending(self._cache), torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            return self._part(given, positions, keep)

    def _draw(
        self, sampler: Sampler, logits: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor, features: Features
    ) -> Drawn:
        drawn = sampler.draw(logits, slots, positions, features)
        self._last.index_copy_(0, slots, drawn.tokens)
        return drawn
