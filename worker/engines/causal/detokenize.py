"""From tokens to text, piece by piece: whole characters only, and never past a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"

LONGEST = 256
"""So many tokens without a whole character among them are told as they are: waiting on would take ever longer."""


class TextStream:
    """The text of an answer as its tokens come, up to a stop string. All pieces together are the text."""

    def __init__(self, pieces: Detokenizer, stops: Sequence[str]) -> None:
        self._pieces = pieces
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has ended the text."""
        return self._stops.hit

    def push(self, token: int, *, stoppable: bool = True) -> str:
        """The text that is certain with this token. While it is not ``stoppable``, no stop string is looked for."""
        piece = self._pieces.push(token)
        return self._stops.push(piece) if stoppable else piece

    def end(self) -> str:
        """The rest of the text, if no more tokens come."""
        rest = self._stops.push(self._pieces.flush())
        return rest if self.stopped else rest + self._stops.flush()


class Detokenizer:
    """Tells what each token adds to the text; a character split over tokens is told when it is whole.

    A token's text depends on the token before it (a leading blank may or may not be one), so each piece is what
    decoding the last few tokens gives beyond decoding all but the new ones.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._told = 0

    def push(self, token: int) -> str:
        """The text that this token completes; "" while a character is not whole."""
        self._tokens.append(token)
        piece = self._piece()
        if (not piece or piece.endswith(REPLACEMENT)) and self._waiting < LONGEST:
            return ""
        self._tell()
        return piece

    def flush(self) -> str:
        """What is left at the end: the pieces of a character that was never finished."""
        piece = self._piece()
        self._tokens, self._told = [], 0
        return piece

    @property
    def _waiting(self) -> int:
        return len(self._tokens) - self._told

    def _piece(self) -> str:
        return self._decode(self._tokens)[len(self._decode(self._tokens[: self._told])) :]

    def _tell(self) -> None:
        self._tokens, self._told = self._tokens[self._told :], self._waiting


class StopStrings:
    """Passes text on until one of ``stops`` is in it; what may be the beginning of one is held back.

    The text ends before the stop string that is complete first, so where tokens begin and end makes no difference.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._firsts = frozenset(stop[0] for stop in stops)
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """The text that is now certain not to belong to a stop string."""
        self._held += text
        if self._firsts.isdisjoint(self._held):
            return self.flush()
        ends = [(start + len(stop), start) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if ends:
            self.hit = True
            keep = min(ends)[1]
            passed, self._held = self._held[:keep], ""
            return passed
        keep = len(self._held) - max((_overlap(self._held, stop) for stop in self._stops), default=0)
        passed, self._held = self._held[:keep], self._held[keep:]
        return passed

    def flush(self) -> str:
        """What was held back for nothing."""
        passed, self._held = self._held, ""
        return passed


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of ``text`` are the first of ``stop``."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
