"""How light a token's weight may be and still be drawn: top_k, top_p and min_p are all one cutoff a row.

- top_k keeps the k heaviest tokens and those that weigh as much as the last of them.
- top_p keeps, of these, the tokens before which, from the heaviest on, less than this share of the mass has come
  (A. Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019); again all of the same weight.
- min_p keeps the tokens of at least this share of the heaviest one's weight (M. Nguyen et al., 2024).

The heaviest always stay. Each function here finds the same tokens in its own way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TypeAlias

import torch

from worker.engines.causal.weights import masses

FEW = 128
"""Most limits leave fewer tokens than this. Where they leave more, more are sorted, in the end the whole vocabulary."""

HEAVIEST = 0x3F800000
"""The bits of 1.0. Those of smaller weights are in the order of the weights, so a search among bits halves their range
and is over after 30 steps."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What rows are limited to, (rows,) each: ``top_k`` int64, ``top_p`` and ``min_p`` float64; 0, 1 and 0 for all."""

    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor


Cutoff: TypeAlias = Callable[[torch.Tensor, Limits], torch.Tensor]
"""Takes weights (rows, vocabulary) float32 and gives the lightest that may be drawn, (rows,) float32."""


def cutoff_for(device: torch.device) -> Cutoff:
    """The fastest there is."""
    if device.type == "cpu":
        return by_sorting
    if device.type == "cuda" and find_spec("triton") is not None:
        from worker.engines.causal.cutoff_triton import by_kernel  # noqa: PLC0415 - only CUDA has Triton

        return by_kernel
    return by_bisection


def by_sorting(weights: torch.Tensor, limits: Limits) -> torch.Tensor:
    """Sort the heaviest, of rows with limits alone: for devices that are quick to ask. Not capturable."""
    cutoff = limits.min_p.float()
    rows = ((limits.top_k > 0) | (limits.top_p < 1)).nonzero().squeeze(-1)
    size = FEW
    while len(rows):
        some = weights[rows] if len(rows) < len(weights) else weights
        found, certain = _among_heaviest(some, limits.top_k[rows], limits.top_p[rows], size)
        cutoff[rows] = torch.maximum(limits.min_p[rows].float(), found)
        rows, size = rows[~certain], size * 16
    return cutoff


def _among_heaviest(
    weights: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cutoff for top_k and top_p, and whether it is certain when only ``size`` tokens are sorted, or ``top_k``."""
    vocabulary = weights.shape[-1]
    capped = (top_k > 0) & (top_k < vocabulary)
    counts = torch.where(capped, top_k, 1)
    head = weights.topk(min(max(size, int(counts.max())), vocabulary)).values
    lightest = head.gather(-1, counts.unsqueeze(-1) - 1).squeeze(-1).masked_fill_(~capped, 0)
    mass = masses(weights).masked_fill_(weights < lightest.unsqueeze(-1), 0).sum(-1)
    wanted = torch.where(top_p < 1, top_p * mass.double(), -1)
    upto = masses(head).cumsum(-1)
    # The first token stays, and each one before which there is not enough.
    kept = (upto[:, :-1] < wanted.unsqueeze(-1)).sum(-1, keepdim=True)
    nucleus = head.gather(-1, kept).squeeze(-1).masked_fill_(top_p >= 1, 0)
    # A row of NaN would never have enough.
    return torch.maximum(lightest, nucleus), (upto[:, -1] >= wanted) | (head.shape[-1] == vocabulary)


def by_bisection(weights: torch.Tensor, limits: Limits) -> torch.Tensor:
    """Halve the range of the cutoff until one weight is left, for all rows at once. Capturable."""

    def enough(weight: torch.Tensor) -> torch.Tensor:
        return (weights >= weight.unsqueeze(-1)).sum(-1) >= counts

    def beyond(weight: torch.Tensor) -> torch.Tensor:
        return mass.masked_fill(weights <= weight.unsqueeze(-1), 0).sum(-1).double() >= wanted

    counts = torch.where(limits.top_k > 0, limits.top_k, weights.shape[-1]).clamp(max=weights.shape[-1])
    mass = masses(weights)
    cutoff, _ = _bisected(enough, counts)
    wanted = limits.top_p * mass.masked_fill(weights < cutoff.unsqueeze(-1), 0).sum(-1).double()
    _, lightest = _bisected(beyond, counts)
    lightest = torch.where(limits.top_p < 1, lightest, 0.0)
    return torch.maximum(torch.maximum(cutoff, lightest), limits.min_p.float())


def _bisected(holds: Callable[[torch.Tensor], torch.Tensor], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The two neighbouring weights from 0 to just above 1, (rows,), between which ``holds`` becomes false."""
    low = torch.zeros_like(like, dtype=torch.int32)
    high = torch.full_like(low, HEAVIEST + 1)
    for _ in range(30):
        middle = low + (high - low) // 2
        held = holds(middle.view(torch.float32))
        low, high = torch.where(held, middle, low), torch.where(held, high, middle)
    return low.view(torch.float32), high.view(torch.float32)
