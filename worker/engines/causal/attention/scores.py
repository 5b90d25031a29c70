"""One attention over keys and values that lie side by side, for shapes and scores that torch's own covers or not."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

# How many queries at a time have all their scores in memory when a soft cap rules torch's attention out.
_PIECE = 512


def weigh(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """Attention over dims (batch, heads, tokens, dim). ``bias`` is added to the scores; without one it is causal."""
    if softcap is None:
        # torch 2.11's quick kernels were 6 % off in float32 where heads are wider than 128; its plain one never is.
        plain = query.is_cuda and query.dtype == torch.float32
        with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
            return scaled_dot_product_attention(query, key, value, bias, is_causal=bias is None, scale=scale)
    if bias is None:
        bias = causal_bias(query.shape[2], key.shape[2], None, query)
    pieces = zip(torch.split(query, _PIECE, 2), torch.split(bias, _PIECE, 2), strict=True)
    return torch.cat([_capped(piece, key, value, part, scale=scale, softcap=softcap) for piece, part in pieces], dim=2)


def causal_bias(queries: int, keys: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """0 where the i-th of the last ``queries`` tokens sees the j-th of the last ``keys``, else -inf: (1, 1, i, j)."""
    last = torch.arange(keys - queries, keys, device=like.device).unsqueeze(-1)
    positions = torch.arange(keys, device=like.device)
    unseen = positions > last
    if window is not None:
        unseen |= positions <= last - window
    return as_bias(unseen[None, None], like)


def as_bias(unseen: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """-inf where ``unseen``, else 0, in the dtype of ``like``: torch takes it as it is, layer after layer."""
    return torch.zeros(unseen.shape, dtype=like.dtype, device=like.device).masked_fill_(unseen, -torch.inf)


def _capped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, *, scale: float, softcap: float
) -> torch.Tensor:
    """Scores in float32: near the cap half precision would tell few of them apart."""
    scores = (query @ key.transpose(-1, -2)).float() * scale
    weights = (softcap * torch.tanh(scores / softcap) + bias).softmax(-1)
    return weights.to(value.dtype) @ value
