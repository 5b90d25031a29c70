"""Making tokens less likely that a request has had before."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from worker.engines.causal.upload import upload

PROMPT = 2**30
"""This bit says that a token was in the prompt; those below it count how often it is in the answer."""


class Penalties:
    """How often each slot has had each token: (slots, width) int32, so it is made only once somebody asks for it."""

    def __init__(self, *, slots: int, width: int, device: torch.device) -> None:
        self._seen = torch.zeros(slots, width, dtype=torch.int32, device=device)

    def set(self, slots: Sequence[int], prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> None:
        """Begin anew with slots, a prompt and an answer each."""
        self._seen.index_fill_(0, upload(slots, torch.int64, self._seen.device), 0)
        self._seen.view(-1).index_fill_(0, self._cells(slots, [set(prompt) for prompt in prompts]), PROMPT)
        self._add(self._cells(slots, answers))

    def apply(
        self,
        scores: torch.Tensor,
        slots: torch.Tensor,
        repetition: torch.Tensor,
        presence: torch.Tensor,
        frequency: torch.Tensor,
    ) -> None:
        """Change scores (rows, width) in place, by penalties of (rows,). Capturable.

        The first is of N. S. Keskar et al., "CTRL", 2019, over prompt and answer; the others are OpenAI's, over the
        answer.
        """
        seen = self._seen[slots]
        penalties = [penalty.float() for penalty in (repetition, presence, frequency)]
        if scores.device.type == "cpu":
            # They are few of many, and where they are is no secret there.
            rows, tokens = seen.nonzero(as_tuple=True)
            some = _penalised(scores[rows, tokens], seen[rows, tokens], *(penalty[rows] for penalty in penalties))
            scores[rows, tokens] = some
        else:
            scores.copy_(_penalised(scores, seen, *(penalty.unsqueeze(-1) for penalty in penalties)))

    def count(self, slots: torch.Tensor, tokens: torch.Tensor) -> None:
        """Each slot has one token more. Capturable."""
        self._add(slots * self._seen.shape[1] + tokens)

    def _cells(self, slots: Sequence[int], tokens: Sequence[Collection[int]]) -> torch.Tensor:
        width = self._seen.shape[1]
        cells = [slot * width + token for slot, some in zip(slots, tokens, strict=True) for token in some]
        return upload(cells, torch.int64, self._seen.device)

    def _add(self, cells: torch.Tensor) -> None:
        self._seen.view(-1).index_add_(0, cells, torch.ones_like(cells, dtype=torch.int32))


def _penalised(
    scores: torch.Tensor, seen: torch.Tensor, repetition: torch.Tensor, presence: torch.Tensor, frequency: torch.Tensor
) -> torch.Tensor:
    counts = seen & (PROMPT - 1)
    rarer = torch.where(scores < 0, scores * repetition, scores / repetition)
    return torch.where(seen > 0, rarer, scores) - counts * frequency - (counts > 0) * presence
