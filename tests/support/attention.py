"""Forwards over random pages, for one attention backend to be held against another."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker.engines.causal.attention.base import Attention, Layout, Pages
from worker.engines.causal.attention.reference import Reference


@dataclass(frozen=True)
class Shape:
    """A layer's: heads that share key heads, and the dims of keys and of values."""

    kv_heads: int
    group: int
    dim: int
    value_dim: int


@dataclass(frozen=True)
class Forward:
    """One layer's part of a forward. Cells of ``pages`` that no row may see hold NaN."""

    layout: Layout
    block_size: int
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    pages: Pages
    padding: slice
    """The tokens whose answers nobody asked for."""

    def by(
        self, attention: Attention, *, scale: float = 0.3, window: int | None = None, softcap: float | None = None
    ) -> tuple[torch.Tensor, Pages]:
        """What this backend answers, and the pages as it leaves them. These here stay as they are."""
        pages = copy.deepcopy(self.pages)
        attention.begin(self.layout, self.block_size)
        out = attention.attend(self.query, self.key, self.value, pages, scale=scale, window=window, softcap=softcap)
        return out, pages

    def check(self, attention: Attention, *, window: int | None = None, softcap: float | None = None) -> None:
        """Hold a backend against the definition: within some roundings of the dtype, and no cell lost or changed."""
        expected, written = self.by(Reference(), window=window, softcap=softcap)
        answer, pages = self.by(attention, window=window, softcap=softcap)
        assert answer.shape == expected.shape
        assert answer.dtype == expected.dtype
        answer[self.padding] = expected[self.padding] = 0
        error = (answer.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-9)
        # A GPU may add float32 up from three products of lower precision.
        most = max(8 * torch.finfo(answer.dtype).eps, 1e-5)
        assert float(error) < most, f"{attention.name}: off by {float(error):.2e}"
        for part, other in ((pages.keys, written.keys), (pages.values, written.values)):
            assert torch.equal(torch.nan_to_num(part[1:], 7.0), torch.nan_to_num(other[1:], 7.0))


def forward(
    decoding: Sequence[int],
    reading: Sequence[tuple[int, int]],
    shape: Shape,
    *,
    block_size: int = 4,
    padding: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> Forward:
    """Rows that decode with so many tokens in all, rows with (new tokens, tokens before them), and padding rows."""
    generator = torch.Generator().manual_seed(seed)
    news = [1] * (len(decoding) + padding) + [new for new, _ in reading]
    lengths = [*decoding, *([1] * padding), *(new + before for new, before in reading)]
    unpadded = [*decoding, *(new + before for new, before in reading)]
    counts = [-(-length // block_size) for length in unpadded]
    ids = (torch.randperm(sum(counts) + 3, generator=generator) + 1)[: sum(counts)].tolist()
    tables = torch.zeros(len(lengths), max([*counts, 1]) + 1, dtype=torch.int32)
    real = [row for row in range(len(lengths)) if not len(decoding) <= row < len(decoding) + padding]
    for row, count in zip(real, counts, strict=True):
        tables[row, :count] = torch.tensor([ids.pop() for _ in range(count)], dtype=torch.int32)
    cells = [
        int(tables[row, place // block_size]) * block_size + place % block_size
        for row, (new, length) in enumerate(zip(news, lengths, strict=True))
        for place in range(length - new, length)
    ]
    starts = [0, *torch.tensor(news).cumsum(0).tolist()]
    layout = Layout(
        decodes=len(decoding) + padding,
        starts=torch.tensor(starts, dtype=torch.int32, device=device),
        lengths=torch.tensor(lengths, dtype=torch.int32, device=device),
        tables=tables.to(device),
        cells=torch.tensor(cells, device=device),
        row_starts=starts,
        row_lengths=lengths,
    )

    def random(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    def part(dim: int) -> torch.Tensor:
        cached = random(sum(counts) + 4, block_size, shape.kv_heads, dim)
        unseen = torch.ones(len(cached) * block_size, dtype=torch.bool)
        for row, (new, length) in enumerate(zip(news, lengths, strict=True)):
            places = torch.arange(length - new)
            unseen[tables[row].long()[places // block_size] * block_size + places % block_size] = False
        cached.flatten(0, 1)[unseen.to(device)] = torch.nan
        return cached

    tokens, heads = starts[-1], shape.kv_heads * shape.group
    return Forward(
        layout,
        block_size,
        random(tokens, heads, shape.dim),
        random(tokens, shape.kv_heads, shape.dim),
        random(tokens, shape.kv_heads, shape.value_dim),
        Pages(part(shape.dim), part(shape.value_dim)),
        slice(len(decoding), len(decoding) + padding),
    )
