"""How likely tokens were, as it is told; and kept until it is."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True, slots=True)
class Chances:
    """How likely a token was: the natural logarithm; and the likeliest tokens, best first, with theirs."""

    logprob: float
    top: Sequence[tuple[int, float]] = ()


class ChancesKept:
    """Those of one text's tokens, in order, in float32: 8 bytes a chance, where Python's own numbers take 90."""

    def __init__(self) -> None:
        self._logprobs = array("f")
        self._tops = array("B")
        self._top_tokens = array("i")
        self._top_logprobs = array("f")

    def add(self, chances: Chances) -> None:
        """The next token's."""
        self._logprobs.append(chances.logprob)
        self._tops.append(len(chances.top))
        for token, logprob in chances.top:
            self._top_tokens.append(token)
            self._top_logprobs.append(logprob)

    def __iter__(self) -> Iterator[Chances]:
        likeliest = zip(self._top_tokens, self._top_logprobs, strict=True)
        for logprob, top in zip(self._logprobs, self._tops, strict=True):
            yield Chances(logprob, list(islice(likeliest, top)))
