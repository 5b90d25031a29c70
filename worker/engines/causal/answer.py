"""From the tokens that were drawn to what a request is answered."""

from __future__ import annotations

from typing import Literal

from ktqueue.job import JsonObject, Usage
from worker.engines.base import Cut, Delta, Finished, Output
from worker.engines.causal.chances import Chances, ChancesKept
from worker.engines.causal.detokenize import TextStream
from worker.engines.causal.sampling import Sampling
from worker.engines.causal.voice import Voice

UNLIKELIEST = -9999.0
"""Stands for the logarithm of no chance at all, which JSON can't say; OpenAI's figure."""


class Answer:
    """All choices of one request, of at most ``most`` tokens each."""

    def __init__(self, job_id: str, prompt_tokens: int, sampling: Sampling, most: int, voice: Voice) -> None:
        self.id = job_id
        self._prompt_tokens = prompt_tokens
        self._choices = [Choice(sampling, most, voice) for _ in range(sampling.n)]
        self._room = most * sampling.n
        self._tokens = 0
        self._told = 0
        self._largest_batch = 0

    def take(self, choice: int, token: int, chances: Chances | None, members: int) -> tuple[list[Output], bool]:
        """Add the next token of a choice that is not over, from a step of so many ``members``.

        What is new, with Finished at the end if there is no more to come, and whether this choice is over.
        """
        one = self._choices[choice]
        offset = one.length
        piece = one.take(token, chances)
        self._tokens += 1
        self._told += len(piece)
        self._largest_batch = max(self._largest_batch, members)
        outputs: list[Output] = []
        if piece:
            outputs.append(Delta(self.id, piece, offset, self._tokens / self._room, self._told, choice))
        if one.over and all(other.over for other in self._choices):
            outputs.append(self._finished())
        return outputs, one.over

    def cut(self) -> Cut:
        """What there is of it; nothing before the first token."""
        if not self._tokens:
            return Cut(self.id)
        for choice in self._choices:
            choice.cut()
        return Cut(self.id, self._result(), self._usage(), self._largest_batch)

    def _finished(self) -> Finished:
        return Finished(self.id, self._result(), self._usage(), self._largest_batch)

    def _result(self) -> JsonObject:
        results = [choice.result for choice in self._choices]
        return results[0] if len(results) == 1 else {"choices": results}

    def _usage(self) -> Usage:
        return Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._tokens)


class Choice:
    """One answer on its way: its tokens, and their text, which has come to ``length`` characters.

    ``result`` is what the client gets to see of it; empty until it is over. It is made then, choice by choice: to tell
    the chances of thousands of tokens takes a while, and a step waits for it.
    """

    def __init__(self, sampling: Sampling, most: int, voice: Voice) -> None:
        self.length = 0
        self.result: JsonObject = {}
        self._pieces: list[str] = []
        self._sampling = sampling
        self._most = most
        self._spell = voice.spell
        self._ends = sampling.stop_token_ids | (frozenset() if sampling.ignore_eos else voice.end_tokens)
        self._stream = TextStream(voice.pieces(), sampling.stop)
        self._tokens: list[int] = []
        self._chances = ChancesKept()

    @property
    def over(self) -> bool:
        """Whether it takes no more tokens."""
        return bool(self.result)

    def take(self, token: int, chances: Chances | None) -> str:
        """Add a token: what it adds to the text. One that ends the answer is not part of it."""
        self._tokens.append(token)
        if chances is not None and self._sampling.logprobs:
            self._chances.add(chances)
        ended = token in self._ends
        stoppable = len(self._tokens) > self._sampling.min_tokens
        piece = "" if ended else self._stream.push(token, stoppable=stoppable)
        full = len(self._tokens) == self._most
        if (ended or full) and not self._stream.stopped:
            piece += self._stream.end()
        self.length += len(piece)
        self._pieces.append(piece)
        if ended or self._stream.stopped:
            self._end("stop")
        elif full:
            self._end("length")
        return piece

    def cut(self) -> None:
        """Let it be over, unless it is."""
        if not self.over:
            self._pieces.append(self._stream.end())
            self._end("deadline")

    def _end(self, reason: Literal["stop", "length", "deadline"]) -> None:
        self.result = {"text": "".join(self._pieces), "finish_reason": reason, "tokens": self._tokens}
        if self._sampling.logprobs:
            pairs = zip(self._tokens, self._chances, strict=True)
            self.result["logprobs"] = [self._told(token, chances) for token, chances in pairs]

    def _told(self, token: int, chances: Chances) -> JsonObject:
        return self._one(token, chances.logprob) | {"top": [self._one(*each) for each in chances.top]}

    def _one(self, token: int, logprob: float) -> JsonObject:
        return {"token": self._spell(token), "id": token, "logprob": max(logprob, UNLIKELIEST)}
