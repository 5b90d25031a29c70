"""Tables of learned positions: how many tokens there is a position for, and from where a model counts them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

_TABLES = ("position_embeddings", "embed_positions", "wpe", "positions_embed")
"""What model classes call them."""


def places(model: torch.nn.Module) -> Iterator[int]:
    """For each table, for how many tokens it has positions."""
    for table in _tables(model):
        # BART's kin and OPT leave some out that they don't tell torch of.
        before = getattr(table, "offset", 0) if table.padding_idx is None else table.padding_idx + 1
        yield table.num_embeddings - before


def counts_from_padding(model: torch.nn.Module) -> bool:
    """Whether the first token is behind the position of padding, as with RoBERTa and its kin."""
    return any(table.padding_idx is not None for table in _tables(model))


def _tables(model: torch.nn.Module) -> Iterator[torch.nn.Embedding]:
    for module in model.modules():
        for name in _TABLES:
            table = getattr(module, name, None)
            if isinstance(table, torch.nn.Embedding):
                yield table
