"""The cutoffs of `cutoff.by_bisection` in one kernel: a program a row, which stops as soon as its cutoff is certain.

It compares the bits of weights: as integers they have the order of the numbers, and the smallest is not taken for 0.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from worker.engines.causal.cutoff import HEAVIEST, Limits
from worker.engines.causal.weights import ONE

_HEAVIEST = tl.constexpr(HEAVIEST)
_ONE = tl.constexpr(ONE)


def by_kernel(weights: torch.Tensor, limits: Limits) -> torch.Tensor:
    """The lightest weight that may be drawn, or one between it and the next lighter token's. Capturable."""
    rows, width = weights.shape
    cutoff = torch.empty(rows, dtype=torch.float32, device=weights.device)
    inputs = [each.contiguous() for each in (weights, limits.top_k, limits.top_p, limits.min_p)]
    _cutoff[(rows,)](*inputs, cutoff, width, 4096, num_warps=16)
    return cutoff


@triton.jit  # type: ignore[untyped-decorator] # it has no types
def _cutoff(  # noqa: PLR0917 - a kernel has no keywords
    weights: tl.tensor,
    top_k: tl.tensor,
    top_p: tl.tensor,
    min_p: tl.tensor,
    cutoff: tl.tensor,
    width: tl.constexpr,
    block: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    weights += row.to(tl.int64) * width
    k = tl.load(top_k + row)
    share = tl.load(top_p + row)
    lightest = tl.load(min_p + row).to(tl.float32).to(tl.int32, bitcast=True)
    heaviest_k = tl.full((), 0, tl.int32)
    if (k > 0) & (k < width):
        heaviest_k = _heaviest(weights, width, k, block)
    if share < 1:
        lightest = tl.maximum(lightest, _nucleus(weights, width, share, heaviest_k, block))
    tl.store(cutoff + row, tl.maximum(lightest, heaviest_k).to(tl.float32, bitcast=True))


@triton.jit  # type: ignore[untyped-decorator] # it has no types
def _heaviest(weights: tl.tensor, width: tl.constexpr, k: tl.tensor, block: tl.constexpr) -> tl.tensor:
    """Bits that at least ``k`` weights reach, and if possible not more."""
    low = tl.full((), 0, tl.int32)
    high = tl.full((), _HEAVIEST + 1, tl.int32)
    while high - low > 1:
        middle = low + (high - low) // 2
        count, _ = _from(weights, width, middle, block)
        if count >= k:
            low = middle
        else:
            high = middle
        if count == k:
            high = middle + 1
    return low


@triton.jit  # type: ignore[untyped-decorator] # it has no types
def _nucleus(
    weights: tl.tensor, width: tl.constexpr, share: tl.tensor, lightest: tl.tensor, block: tl.constexpr
) -> tl.tensor:
    """Bits, above which less than ``share`` of the mass from ``lightest`` on is, and from which on at least as much."""
    above_low, mass = _from(weights, width, lightest, block)
    wanted = share * mass.to(tl.float64)
    low = tl.maximum(lightest - 1, 0)
    high = tl.full((), _HEAVIEST, tl.int32)
    above_high = above_low * 0
    # With only one weight above `low` and up to `high`, all cutoffs between them are alike.
    while (high - low > 1) & (above_low - above_high > 1):
        middle = low + (high - low) // 2
        above, mass = _from(weights, width, middle + 1, block)
        if mass.to(tl.float64) >= wanted:
            low = middle
            above_low = above
        else:
            high = middle
            above_high = above
    return low + 1


@triton.jit  # type: ignore[untyped-decorator] # it has no types
def _from(
    weights: tl.tensor, width: tl.constexpr, lightest: tl.tensor, block: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """How many weights have bits of at least ``lightest``, and their mass."""
    count = tl.zeros((block,), tl.int32)
    mass = tl.zeros((block,), tl.int64)
    for start in range(0, width, block):
        places = start + tl.arange(0, block)
        found = tl.load(weights + places, mask=places < width, other=0.0)
        kept = (found.to(tl.int32, bitcast=True) >= lightest) & (places < width)
        count += kept.to(tl.int32)
        mass += tl.where(kept, found * _ONE, 0.0).to(tl.int64)
    return tl.sum(count), tl.sum(mass)
