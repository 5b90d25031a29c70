"""How the next token is drawn: all rows at once, and each as if it were alone.

A row's draw is one number in [0, 1) from the request's own generator, looked up in the row's cumulative
distribution, always in the order of the vocabulary. So a seed gives the same text whoever else is in the batch, up
to the last bits of the logits, which no batch leaves untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker.engines.causal.sampling import Sampling

COLDEST = 1e-5
"""Below this temperature float32 overflows, and the likeliest token is all but certain anyway."""

EDGE = 1e-6
"""A draw this near to 0 or 1 is moved in: out there lie tokens whose chances are less than the rounding of a sum."""

HEAD = 1024
"""Most nuclei (top_p) have fewer tokens than this; only where one has more is the whole vocabulary sorted."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What one row's draw depends on. ``uniform`` is in [0, 1); ``seen`` is the prompt and the answer so far."""

    sampling: Sampling
    uniform: float
    seen: Sequence[int]


@torch.inference_mode()
def draw(logits: torch.Tensor, rows: Sequence[Draw]) -> list[int | None]:
    """The next token of each row of (rows, vocabulary) logits; None where a row is not a number."""
    logits = logits.float()
    _penalise(logits, rows)
    tokens = logits.argmax(-1)
    sampled = [index for index, row in enumerate(rows) if row.sampling.temperature >= COLDEST]
    if sampled:
        tokens[sampled] = _sample(logits[sampled], [rows[index] for index in sampled])
    # The largest of a row with a NaN is NaN.
    healthy = logits.amax(-1).isnan().logical_not()
    return [token if good else None for token, good in zip(tokens.tolist(), healthy.tolist(), strict=True)]


def _penalise(logits: torch.Tensor, rows: Sequence[Draw]) -> None:
    """Make tokens that were seen less likely (N. S. Keskar et al., "CTRL", 2019), in place."""
    for index, row in enumerate(rows):
        penalty = row.sampling.repetition_penalty
        if penalty != 1.0:
            seen = torch.tensor(sorted(set(row.seen)), device=logits.device)
            scores = logits[index, seen]
            logits[index, seen] = torch.where(scores < 0, scores * penalty, scores / penalty)


def _sample(logits: torch.Tensor, rows: Sequence[Draw]) -> torch.Tensor:
    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, device=logits.device, dtype=logits.dtype).unsqueeze(-1)

    logits = logits / column([row.sampling.temperature for row in rows])
    _keep_top_k(logits, [row.sampling.top_k for row in rows])
    chances = logits.softmax(-1)
    if any(row.sampling.top_p < 1 for row in rows):
        _keep_nucleus(chances, column([row.sampling.top_p for row in rows]))
    cumulative = chances.double().cumsum(-1)
    uniforms = torch.tensor([row.uniform for row in rows], device=logits.device, dtype=torch.float64)
    targets = uniforms.clamp(EDGE, 1 - EDGE).unsqueeze(-1) * cumulative[:, -1:]
    # Tokens of no chance add nothing, so the first to pass the target has one.
    return torch.searchsorted(cumulative, targets, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def _keep_top_k(logits: torch.Tensor, limits: Sequence[int]) -> None:
    vocabulary = logits.shape[-1]
    limited = [index for index, limit in enumerate(limits) if 0 < limit < vocabulary]
    if not limited:
        return
    counts = torch.tensor([limits[index] for index in limited], device=logits.device).unsqueeze(-1)
    best = logits[limited].topk(int(counts.max())).values
    floor = best.gather(-1, counts - 1)
    logits[limited] = logits[limited].masked_fill(logits[limited] < floor, -torch.inf)


def _keep_nucleus(chances: torch.Tensor, top_p: torch.Tensor) -> None:
    """Zero all but the likeliest tokens that make up ``top_p`` (A. Holtzman et al., 2019), in place; one at least."""
    head = chances.topk(min(HEAD, chances.shape[-1])).values
    if (head.sum(-1, keepdim=True) < top_p).any():
        head = chances.sort(descending=True).values
    before = head.cumsum(-1) - head
    kept = (before < top_p).sum(-1, keepdim=True).clamp(min=1)
    chances.masked_fill_(chances < head.gather(-1, kept - 1), 0.0)
