"""A kernel that others built is tried before it is trusted: on the device, for a model's layers, against float64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TypeAlias

import torch

from worker.engines.causal.attention.base import Attention, LayerShape, Layout, Pages
from worker.engines.causal.attention.reference import Reference

_Rows: TypeAlias = Sequence[tuple[int, int]]

_ROWS = [(1, 1), (1, 300), (5, 5), (7, 267)]
"""New tokens of each row, and all of its tokens: two that decode, and two that read."""
_DECODES = 2
_STEPS = (_ROWS, _ROWS[:_DECODES])
"""Rows that decode among themselves may be computed in a way of their own."""
_GROUP = 2
_ROUNDINGS = 8
"""Of the dtype: so far an answer may be off."""


@torch.inference_mode()
def fault_of(
    attention: Attention, device: torch.device, dtype: torch.dtype, shapes: Sequence[LayerShape]
) -> str | None:
    """What is wrong with its answers for layers like these; None if nothing is."""
    for shape, rows in product(dict.fromkeys(shapes), _STEPS):
        try:
            error = _error(attention, device, dtype, shape, rows)
        except (RuntimeError, TypeError) as raised:
            return f"does not run here: {raised}"
        if not error < _ROUNDINGS * torch.finfo(dtype).eps:
            return f"answers wrongly here: off by {error:.1e}"
    return None


def _error(attention: Attention, device: torch.device, dtype: torch.dtype, shape: LayerShape, rows: _Rows) -> float:
    """How far it is from the definition, relative to the answer."""
    size = attention.block_size
    generator = torch.Generator().manual_seed(0)

    def some(count: int, *dims: int) -> torch.Tensor:
        return torch.randn(count, *dims, generator=generator).to(device, dtype)

    layout = _layout(rows, size, device)
    tokens, blocks = layout.row_starts[-1], int(layout.tables.max()) + 1
    query, key = some(tokens, _GROUP * shape.heads, shape.key_dim), some(tokens, shape.heads, shape.key_dim)
    value = some(tokens, shape.heads, shape.value_dim)
    pages = Pages(some(blocks, size, shape.heads, shape.key_dim), some(blocks, size, shape.heads, shape.value_dim))
    answers = []
    for each in (attention, Reference()):
        each.begin(layout, size)
        answer = each.attend(
            query, key, value, pages, scale=shape.key_dim**-0.5, window=shape.window, softcap=shape.softcap
        )
        answers.append(answer.double())
    return float((answers[0] - answers[1]).norm() / answers[1].norm())


def _layout(rows: _Rows, block_size: int, device: torch.device) -> Layout:
    """Rows whose blocks lie one after the other, from block 1 on."""
    width = max(-(-length // block_size) for _, length in rows)
    tables = torch.arange(len(rows) * width).view(-1, width) + 1
    news = torch.tensor([0, *(new for new, _ in rows)])
    places = [torch.arange(length - new, length) for new, length in rows]
    cells = [
        table[place // block_size] * block_size + place % block_size
        for table, place in zip(tables, places, strict=True)
    ]
    starts, lengths = news.cumsum(0), [length for _, length in rows]
    return Layout(
        _DECODES,
        starts.int().to(device),
        torch.tensor(lengths).int().to(device),
        tables.int().to(device),
        torch.cat(cells).to(device),
        starts.tolist(),
        lengths,
    )
