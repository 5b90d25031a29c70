"""What is added to the logits of single tokens: a request's own biases, and -inf for what may not be drawn yet."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from worker.engines.causal.sampling import MOST_BIASES, MOST_STOP_TOKENS, Sampling
from worker.engines.causal.upload import upload

EVER = 2.0**53
"""More tokens than any answer has."""


class Nudges:
    """For each slot a list of tokens, what each gets, and how many tokens the answer has when that ends.

    The lists are of one length, most of it unused, so that their tensors stay where a captured graph knows them;
    ``ends`` is how many end tokens the model has.
    """

    def __init__(self, *, slots: int, vocabulary: int, ends: int, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._width = MOST_BIASES + MOST_STOP_TOKENS + ends
        self._tokens = torch.zeros(slots, self._width, dtype=torch.int64, device=device)
        self._values = torch.zeros(slots, self._width, device=device)
        self._until = torch.zeros(slots, self._width, dtype=torch.int64, device=device)

    def set(self, slots: torch.Tensor, wishes: Sequence[tuple[Sampling, frozenset[int]]]) -> None:
        """Replace those of ``slots`` (rows,), each by a request's and its model's end tokens."""
        rows = upload([self._row(*wish) for wish in wishes], torch.float64, self._tokens.device)
        self._tokens[slots] = rows[:, 0].long()
        self._values[slots] = rows[:, 1].float()
        self._until[slots] = rows[:, 2].long()

    def apply(self, scores: torch.Tensor, slots: torch.Tensor, drawn: torch.Tensor) -> None:
        """Change scores (rows, vocabulary) in place; ``drawn`` (rows,) tokens are in the answers. Capturable."""
        values = torch.where(drawn.unsqueeze(-1) < self._until[slots], self._values[slots], 0.0)
        scores.scatter_add_(-1, self._tokens[slots], values)

    def _row(self, sampling: Sampling, end_tokens: frozenset[int]) -> list[list[float]]:
        barred = sampling.stop_token_ids | (frozenset() if sampling.ignore_eos else end_tokens)
        nudges = [(token, value, EVER) for token, value in sampling.logit_bias]
        nudges += [(token, -torch.inf, sampling.min_tokens) for token in barred]
        known = [nudge for nudge in nudges if nudge[0] < self._vocabulary]
        unused = [(0, 0.0, 0.0)] * (self._width - len(known))
        return [list(column) for column in zip(*known, *unused, strict=True)]
