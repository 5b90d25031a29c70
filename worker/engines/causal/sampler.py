"""The next tokens of many rows at once, on the device, and each row's as if it were alone.

What a request wishes lies on the device, in its slot. A row is told by its slot and by where its last token is, so a
token that was drawn after a wrong draft leaves nothing behind, but where penalties count it. The order of things is
that of transformers and vLLM: biases, tokens that may not be drawn yet, penalties, temperature, top_k, top_p, min_p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Flag, auto

import numpy as np
import torch

from worker.engines.causal.cutoff import Limits, cutoff_for
from worker.engines.causal.nudges import Nudges
from worker.engines.causal.penalties import Penalties
from worker.engines.causal.sampling import MOST_TOP, Sampling
from worker.engines.causal.uniform import uniforms
from worker.engines.causal.upload import Numbers, upload
from worker.engines.causal.weights import padded, pick

COLDEST = 1e-5
"""Below this temperature the likeliest token is all but certain, and is taken."""


class Features(Flag):
    """The work that rows need besides taking the likeliest tokens. Doing more than is needed changes no token."""

    SAMPLED = auto()
    LIMITED = auto()
    PENALISED = auto()
    NUDGED = auto()
    LOGPROBS = auto()
    TOP = auto()


GREEDY = Features(0)
CHOOSING = Features.SAMPLED | Features.PENALISED | Features.NUDGED


@dataclass(frozen=True, slots=True)
class Entry:
    """One of a request's choices as it takes a slot. ``seed`` is of this choice alone, from `uniform.stream_of`.

    ``answer`` has what it drew before it was pre-empted. ``end_tokens`` are the model's, the same for all.
    """

    slot: int
    sampling: Sampling
    seed: int
    prompt: Sequence[int]
    answer: Sequence[int]
    end_tokens: frozenset[int]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token a row, (rows,) int64. A row that is not ``healthy``, (rows,) bool, has logits that are no numbers, and 0.

    ``logprobs`` (rows,) are the model's own, before anything that a request wishes. ``top`` are the likeliest tokens,
    best first, and theirs: (rows, MOST_TOP), or as many as there are. Both are None unless a row asks for them; what
    they hold for the other rows means nothing.
    """

    tokens: torch.Tensor
    healthy: torch.Tensor
    logprobs: torch.Tensor | None = None
    top: tuple[torch.Tensor, torch.Tensor] | None = None


class Sampler:
    """So many ``slots``, and one more for rows that only fill up a batch: it wishes nothing, and takes no entry."""

    def __init__(self, *, slots: int, vocabulary: int, device: torch.device) -> None:
        self._slots = slots + 1
        self._vocabulary = vocabulary
        self._width = padded(vocabulary)
        self._device = device
        self._cutoff = cutoff_for(device)
        self._features = np.zeros(self._slots, dtype=np.int64)
        self._wishes = torch.tensor([_numbers(Sampling())], dtype=torch.float64, device=device).repeat(self._slots, 1)
        self._seeds = torch.zeros(self._slots, dtype=torch.int64, device=device)
        self._prompts = torch.zeros(self._slots, dtype=torch.int64, device=device)
        # These are large, and most batches need neither.
        self._nudges: Nudges | None = None
        self._penalties: Penalties | None = None

    @torch.inference_mode()
    def admit(self, entries: Sequence[Entry]) -> None:
        """Give slots to entries, before they draw for the first time, or again."""
        if not entries:
            return
        whole = [[entry.slot, entry.seed, len(entry.prompt)] for entry in entries]
        slots, seeds, prompts = upload(whole, torch.int64, self._device).unbind(-1)
        self._seeds[slots], self._prompts[slots] = seeds, prompts
        self._wishes[slots] = upload([_numbers(entry.sampling) for entry in entries], torch.float64, self._device)
        for entry in entries:
            self._features[entry.slot] = features_of(entry.sampling).value
        self._nudge(slots, entries)
        self._penalise([entry for entry in entries if features_of(entry.sampling) & Features.PENALISED])

    def release(self, slots: Sequence[int]) -> None:
        """Take slots back: they need no work until they are given anew."""
        self._features[slots] = GREEDY.value

    def features(self, slots: Sequence[int] | Numbers) -> Features:
        """What a batch of these slots needs."""
        return Features(int(np.bitwise_or.reduce(self._features[np.asarray(slots, dtype=np.int64)])))

    @torch.inference_mode()
    def draw(self, logits: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor, features: Features) -> Drawn:
        """A token for each row of (rows, vocabulary) logits of any precision, which are of tokens at ``positions``.

        Capturable on CUDA: it asks the device nothing. Does what ``features`` say, which is at least what the slots
        need. ``slots`` and ``positions`` are (rows,) int64. A slot with penalties has one row: what it draws counts.
        """
        best, tokens = logits.max(-1)
        # The largest of a row with a NaN is NaN.
        healthy = best.isfinite()
        if features & CHOOSING:
            rows = self._rows(slots, CHOOSING)
            if rows is None:
                tokens, good = self._choose(logits, slots, positions, features)
                healthy = healthy & good
            else:
                tokens[rows], good = self._choose(logits[rows], slots[rows], positions[rows], features)
                healthy[rows] &= good
        tokens = torch.where(healthy, tokens, 0)
        if self._penalties and features & Features.PENALISED:
            self._penalties.count(slots, tokens)
        return self._told(logits, slots, features, Drawn(tokens, healthy))

    def _choose(
        self, logits: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor, features: Features
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens as the slots wish them, and whether rows are healthy."""
        temperature, top_k, top_p, min_p, repetition, presence, frequency = self._wishes[slots].unbind(-1)
        drawn = positions + 1 - self._prompts[slots]
        scores = torch.full((len(slots), self._width), -torch.inf, device=self._device)
        scores[:, : self._vocabulary] = logits
        if self._nudges and features & Features.NUDGED:
            self._nudges.apply(scores, slots, drawn)
        if self._penalties and features & Features.PENALISED:
            self._penalties.apply(scores, slots, repetition, presence, frequency)
        best, tokens = scores.max(-1)
        if features & Features.SAMPLED:
            hot = temperature >= COLDEST
            # That of the likeliest is 1, whatever the temperature, so nothing overflows.
            weights = (
                scores.sub_(best.unsqueeze(-1)).div_(torch.where(hot, temperature, 1.0).float().unsqueeze(-1)).exp_()
            )
            if features & Features.LIMITED:
                lightest = self._cutoff(weights, Limits(top_k.long(), top_p, min_p))
                weights.masked_fill_(weights < lightest.unsqueeze(-1), 0.0)
            tokens = torch.where(hot, pick(weights, uniforms(self._seeds[slots], drawn)), tokens)
        return tokens, best.isfinite()

    def _told(self, logits: torch.Tensor, slots: torch.Tensor, features: Features, drawn: Drawn) -> Drawn:
        """The same, with what is to be told of the chances."""
        if not features & (Features.LOGPROBS | Features.TOP):
            return drawn
        rows = self._rows(slots, Features.LOGPROBS | Features.TOP)
        tokens = drawn.tokens if rows is None else drawn.tokens[rows]
        scores = (logits if rows is None else logits[rows]).float()
        scale = scores.logsumexp(-1, keepdim=True)
        logprobs = (scores.gather(-1, tokens.unsqueeze(-1)) - scale).squeeze(-1)
        if features & Features.TOP:
            best = scores.topk(min(MOST_TOP, self._vocabulary))
            top = _spread(best.indices, rows, len(slots)), _spread(best.values - scale, rows, len(slots))
        return Drawn(
            drawn.tokens,
            drawn.healthy,
            _spread(logprobs, rows, len(slots)),
            top if features & Features.TOP else None,
        )

    def _rows(self, slots: torch.Tensor, which: Features) -> torch.Tensor | None:
        """The rows that need any of this work; None for all of them, where to ask costs more than to do it."""
        if self._device.type != "cpu":
            return None
        return torch.from_numpy(np.flatnonzero(self._features[slots.numpy()] & which.value))

    def _nudge(self, slots: torch.Tensor, entries: Sequence[Entry]) -> None:
        if self._nudges is None and any(features_of(entry.sampling) & Features.NUDGED for entry in entries):
            ends = len(entries[0].end_tokens)
            self._nudges = Nudges(slots=self._slots, vocabulary=self._vocabulary, ends=ends, device=self._device)
        if self._nudges is not None:
            # Of those too that have none: the slot may have had some before.
            self._nudges.set(slots, [(entry.sampling, entry.end_tokens) for entry in entries])

    def _penalise(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        if self._penalties is None:
            self._penalties = Penalties(slots=self._slots, width=self._width, device=self._device)
        slots = [entry.slot for entry in entries]
        self._penalties.set(slots, [entry.prompt for entry in entries], [entry.answer for entry in entries])


def features_of(sampling: Sampling) -> Features:
    """The work that one request needs."""
    sampled = sampling.temperature >= COLDEST
    needed = {
        Features.SAMPLED: sampled,
        Features.LIMITED: sampled and (sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0),
        Features.PENALISED: sampling.repetition_penalty != 1
        or sampling.presence_penalty != 0
        or sampling.frequency_penalty != 0,
        Features.NUDGED: bool(sampling.logit_bias) or sampling.min_tokens > 0,
        Features.LOGPROBS: sampling.logprobs,
        Features.TOP: sampling.top_logprobs > 0,
    }
    features = GREEDY
    for feature, wanted in needed.items():
        features |= feature if wanted else GREEDY
    return features


def _numbers(sampling: Sampling) -> list[float]:
    return [
        sampling.temperature,
        sampling.top_k,
        sampling.top_p,
        sampling.min_p,
        sampling.repetition_penalty,
        sampling.presence_penalty,
        sampling.frequency_penalty,
    ]


def _spread(values: torch.Tensor, rows: torch.Tensor | None, count: int) -> torch.Tensor:
    """Values of some rows among ``count`` rows."""
    if rows is None:
        return values
    return values.new_zeros(count, *values.shape[1:]).index_copy_(0, rows, values)
