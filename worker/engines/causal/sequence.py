"""One request on its way from prompt to answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ktqueue.job import Usage
from worker.engines.base import Delta, Finished, Output
from worker.engines.causal.detokenize import Detokenizer, TextStream
from worker.engines.causal.drawing import Draw
from worker.engines.causal.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Voice:
    """How a model's tokens become text, and which of them end an answer."""

    decode: Callable[[list[int]], str]
    end_tokens: frozenset[int]


class Sequence:
    """A prompt and the answer so far. ``most`` is how many tokens the answer may have.

    A ``suspect`` was among prompts that could not be read together, and is read alone.
    """

    def __init__(self, job_id: str, prompt: list[int], sampling: Sampling, most: int, voice: Voice) -> None:
        self.id = job_id
        self.suspect = False
        self._prompt = prompt
        self._answer: list[int] = []
        self._most = most
        self._sampling = sampling
        self._random = random.Random(sampling.seed)  # noqa: S311 - it draws words, not secrets
        self._end_tokens = voice.end_tokens
        self._stream = TextStream(Detokenizer(voice.decode), sampling.stop)
        self._text = ""
        self._largest_batch = 0

    @property
    def tokens(self) -> list[int]:
        """Prompt and answer: all that has to be read to go on from here."""
        return self._prompt + self._answer

    @property
    def last(self) -> int:
        """The token that the model has not read yet."""
        return self._answer[-1]

    @property
    def total(self) -> int:
        """How many tokens it may come to."""
        return len(self._prompt) + self._most

    def draw(self) -> Draw:
        """What the next token depends on, besides the model."""
        seen = self.tokens if self._sampling.repetition_penalty != 1 else []
        return Draw(self._sampling, self._random.random(), seen)

    def take(self, token: int, members: int) -> list[Output]:
        """Add the next token, from a forward of so many ``members``: what is new, and Finished if it was the last."""
        self._answer.append(token)
        self._largest_batch = max(self._largest_batch, members)
        ended = token in self._end_tokens
        piece = "" if ended else self._stream.push(token)
        full = len(self._answer) == self._most
        if (ended or full) and not self._stream.stopped:
            piece += self._stream.end()
        outputs: list[Output] = []
        if piece:
            progress = len(self._answer) / self._most
            outputs.append(Delta(self.id, piece, len(self._text), progress, len(self._text) + len(piece)))
            self._text += piece
        if ended or full or self._stream.stopped:
            outputs.append(self._finished("stop" if ended or self._stream.stopped else "length"))
        return outputs

    def _finished(self, reason: Literal["stop", "length"]) -> Finished:
        result = {"text": self._text, "finish_reason": reason, "tokens": self._answer}
        usage = Usage(prompt_tokens=len(self._prompt), completion_tokens=len(self._answer))
        return Finished(self.id, result, usage, self._largest_batch)
