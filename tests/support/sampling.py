"""What drawing tokens has to come to: the chances of a row in plain float64, and whether draws are spread like that."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch

from worker.engines.causal.sampler import Drawn, Entry, Sampler
from worker.engines.causal.sampling import Sampling
from worker.engines.causal.uniform import stream_of

VOCABULARY = 50
PROMPT = [1, 4, 4, 9]
ANSWER = [4, 7, 7, 30]
ENDS = frozenset([2, 30])


def logits(rows: int, *, vocabulary: int = VOCABULARY, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def entry(
    slot: int,
    sampling: Sampling,
    *,
    seed: int = 0,
    prompt: Sequence[int] = PROMPT,
    answer: Sequence[int] = ANSWER,
    ends: frozenset[int] = ENDS,
) -> Entry:
    return Entry(slot, sampling, stream_of(seed), prompt, answer, ends)


def sampler_of(*entries: Entry, vocabulary: int = VOCABULARY, device: str = "cpu") -> Sampler:
    slots = max(entry.slot for entry in entries) + 1
    sampler = Sampler(slots=slots, vocabulary=vocabulary, device=torch.device(device))
    sampler.admit(entries)
    return sampler


def draw(sampler: Sampler, rows: torch.Tensor, slots: Sequence[int], *, drawn: int = len(ANSWER)) -> Drawn:
    """The next tokens of answers that have so many, after `PROMPT`."""
    return sampler.draw(
        rows, torch.tensor(slots, device=rows.device), last(len(rows), drawn).to(rows.device), sampler.features(slots)
    )


def last(rows: int, drawn: int = len(ANSWER)) -> torch.Tensor:
    """Where the last token is, (rows,), of a text that is `PROMPT` and so many tokens after it."""
    return torch.full((rows,), len(PROMPT) + drawn - 1)


def chances(
    row: torch.Tensor, wish: Sampling, prompt: Sequence[int] = PROMPT, answer: Sequence[int] = ANSWER
) -> list[float]:
    """Each token's chance to be the next, with `ENDS` for end tokens."""
    scores = changed(row, wish, prompt, answer)
    best = max(scores)
    if wish.temperature < 1e-5:
        return [float(token == scores.index(best)) for token in range(len(scores))]
    weights = [math.exp((score - best) / wish.temperature) for score in scores]
    if 0 < wish.top_k < len(weights):
        weights = _from(weights, sorted(weights)[-wish.top_k])
    if wish.top_p < 1:
        weights = _from(weights, _lightest(weights, wish.top_p))
    weights = _from(weights, wish.min_p)
    return [weight / math.fsum(weights) for weight in weights]


def changed(row: torch.Tensor, wish: Sampling, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """The logits after all that comes before the temperature."""
    scores: list[float] = row.double().tolist()
    for token, bias in wish.logit_bias:
        scores[token] += bias
    if len(answer) < wish.min_tokens:
        for token in wish.stop_token_ids | (frozenset() if wish.ignore_eos else ENDS):
            scores[token] = -math.inf
    for token in {*prompt, *answer}:
        scores[token] *= wish.repetition_penalty if scores[token] < 0 else 1 / wish.repetition_penalty
    for token, count in Counter(answer).items():
        scores[token] -= wish.presence_penalty + count * wish.frequency_penalty
    return scores


def _lightest(weights: list[float], share: float) -> float:
    """The lightest weight before which, from the heaviest on, less than ``share`` has come."""
    before, lightest = 0.0, 1.0
    for weight in sorted(weights, reverse=True):
        if before < share * math.fsum(weights):
            lightest = weight
        before += weight
    return lightest


def _from(weights: list[float], lightest: float) -> list[float]:
    return [weight if weight >= lightest else 0.0 for weight in weights]


def surprise(tokens: Sequence[int], expected: Sequence[float]) -> float:
    """How many standard deviations Pearson's chi-square of these draws is from what it should be.

    Tokens that are expected fewer than five times count as one; one that has no chance is infinitely surprising.
    By E. B. Wilson and M. M. Hilferty, "The distribution of chi-square", 1931.
    """
    counts = Counter(tokens)
    if any(expected[token] == 0 for token in counts):
        return math.inf
    cells: list[tuple[float, float]] = []
    rare = (0.0, 0.0)
    for token, chance in enumerate(expected):
        cell = (float(counts[token]), chance * len(tokens))
        if cell[1] >= 5:
            cells.append(cell)
        else:
            rare = (rare[0] + cell[0], rare[1] + cell[1])
    if rare[1] >= 1:
        cells.append(rare)
    free = len(cells) - 1
    if free == 0:
        return 0.0
    statistic = sum((found - wanted) ** 2 / wanted for found, wanted in cells)
    spread = 2 / (9 * free)
    return float(((statistic / free) ** (1 / 3) - (1 - spread)) / math.sqrt(spread))
