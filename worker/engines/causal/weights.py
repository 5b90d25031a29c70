"""From weights to a token, by the inverse of the cumulative distribution, in the order of the vocabulary.

A weight is a token's chance in relation to the likeliest one's: float32, from 0 to 1. What is added up are whole
numbers, ``masses``: their sums are exact, so that the order of adding, which is different for each device and number of
rows, makes no difference, and rounding can't give a chance to a token that has none.
"""

from __future__ import annotations

import torch

ONE = 2.0**40
"""The mass of the likeliest token. Those of 2**22 tokens can be added in 63 bits; what is rarer than one in 10**12
gets none."""

BLOCK = 1024
"""So many tokens are added up before a prefix sum is taken, over the sums: one over all tokens is slow on CUDA."""


def padded(vocabulary: int) -> int:
    """The width of a row of weights: whole blocks."""
    return -(-vocabulary // BLOCK) * BLOCK


def masses(weights: torch.Tensor) -> torch.Tensor:
    """As int64; what is added up. Capturable."""
    return (weights * ONE).long()


def pick(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The token at ``uniform`` (rows,) of the cumulative ``weights`` (rows, whole blocks). Capturable.

    A row of NaN gets some token or other.
    """
    blocks = masses(weights).view(len(weights), -1, BLOCK)
    upto = blocks.sum(-1).cumsum(-1)
    total = upto[:, -1:]
    target = torch.minimum((uniform.unsqueeze(-1) * total.double()).long(), total - 1)
    block = torch.searchsorted(upto, target, right=True).clamp(max=blocks.shape[1] - 1)
    inside = blocks.gather(1, block.unsqueeze(-1).expand(-1, 1, BLOCK)).squeeze(1)
    before = upto.gather(-1, block) - inside.sum(-1, keepdim=True)
    place = torch.searchsorted(inside.cumsum(-1), target - before, right=True).clamp(max=BLOCK - 1)
    return (block * BLOCK + place).squeeze(-1)
