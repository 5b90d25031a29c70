"""What ``flash_attn_varlen_func`` of flash-attn promises, computed plainly; to be imported in its place."""

from __future__ import annotations

import torch


def flash_attn_varlen_func(  # noqa: PLR0917 - it is called so
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    most_queries: int,
    most_keys: int,
    *,
    softmax_scale: float,
    causal: bool,
    window_size: tuple[int, int],
    softcap: float,
    block_table: torch.Tensor,
) -> torch.Tensor:
    """Row by row, aligned to the last key; what is causal sees nothing to its right."""
    assert keys.shape[1] % 256 == 0
    out = torch.empty_like(query)
    for row, blocks in enumerate(block_table.long()):
        first, last = query_starts[row : row + 2].tolist()
        length = int(key_starts[row + 1] - key_starts[row])
        assert last - first <= most_queries
        assert length <= most_keys
        heads = query.shape[1] // keys.shape[2]
        key, value = (part[blocks].flatten(0, 1)[:length].repeat_interleave(heads, 1) for part in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", query[first:last], key) * softmax_scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        behind = torch.arange(length - (last - first), length).unsqueeze(1) - torch.arange(length)
        left, right = window_size[0], 0 if causal else window_size[1]
        seen = ((behind >= -right) | (right < 0)) & ((behind <= left) | (left < 0))
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        out[first:last] = torch.einsum("hqk,khd->qhd", weights, value)
    return out
