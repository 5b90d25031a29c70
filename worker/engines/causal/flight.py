"""What a launched step drew, on its way to the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from worker.engines.causal.chances import Chances
from worker.engines.causal.sampler import Drawn
from worker.engines.causal.upload import Numbers

Floats: TypeAlias = npt.NDArray[np.float32]

_NOT_A_NUMBER = -1


@dataclass(frozen=True, slots=True)
class Landed:
    """What the rows of a step drew, in their order.

    ``tokens``: (draws,), -1 for a row whose logits were no numbers. ``logprobs`` (draws,), and the likeliest tokens
    with theirs, (draws, MOST_TOP), are None unless a row asked for them.
    """

    tokens: Numbers
    logprobs: Floats | None = None
    top_tokens: Numbers | None = None
    top_logprobs: Floats | None = None

    def token(self, index: int) -> int | None:
        """The token of a row; None if the model's output for it was not a number."""
        token = int(self.tokens[index])
        return None if token == _NOT_A_NUMBER else token

    def chances(self, index: int, most: int) -> Chances | None:
        """How likely it was, with up to ``most`` of the likeliest, if anyone asked."""
        if self.logprobs is None:
            return None
        top: list[tuple[int, float]] = []
        if most and self.top_tokens is not None and self.top_logprobs is not None:
            tokens, logprobs = self.top_tokens[index, :most], self.top_logprobs[index, :most]
            top = list(zip(tokens.tolist(), logprobs.tolist(), strict=True))
        return Chances(float(self.logprobs[index]), top)


class Flight(Protocol):
    """A step that was launched."""

    def land(self) -> Landed:
        """Wait for what it drew."""


class Fetching:
    """A flight on this process's own device. Of what was ``drawn``, the first ``draws`` are somebody's."""

    def __init__(self, drawn: Drawn, draws: int) -> None:
        self._draws = draws
        self._done = torch.cuda.Event() if drawn.tokens.is_cuda else None
        tokens = torch.where(drawn.healthy, drawn.tokens, _NOT_A_NUMBER)
        # The likeliest are told whenever logprobs are.
        told = [drawn.logprobs, *(drawn.top or (None, None))]
        self._fetched = [None if tensor is None else _fetch(tensor) for tensor in (tokens, *told)]
        if self._done:
            self._done.record()

    def land(self) -> Landed:
        """Wait for the results."""
        if self._done:
            self._done.synchronize()
        arrays: list[Any] = [None if tensor is None else tensor[: self._draws].numpy() for tensor in self._fetched]
        return Landed(*arrays)


def _fetch(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_cuda:
        return tensor
    there = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return there.copy_(tensor, non_blocking=True)
