"""The lines of a body, one at a time: however long it is, no more than one line and one chunk are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ktqueue.errors import TooLarge

CHUNK = 65_536

Line: TypeAlias = tuple[int, bytes | TooLarge]
"""Its number, from 1, and what it says or why it was not taken."""


class Readable(Protocol):
    """A body as it comes in."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; b"" at the end."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Most bytes of one line and of all, and most lines that are not blank."""

    line_bytes: int
    total_bytes: int
    lines: int


def lines(stream: Readable, bounds: Bounds) -> Iterator[Line]:
    """Every line that is not blank. Past a bound of the whole there is one more, a TooLarge, and then no more."""
    for taken, (number, line) in enumerate(_not_blank(_Body(stream, bounds.total_bytes), bounds.line_bytes)):
        if taken == bounds.lines:
            yield number, TooLarge(f"there are more than {bounds.lines} jobs; from here on none was taken")
            # Whoever still sends would take a closed connection for a failure.
            while stream.read(CHUNK):
                pass
            return
        yield number, line


class _Body:
    """Chunks up to a bound; ``cut`` once there was more."""

    def __init__(self, stream: Readable, most: int) -> None:
        self._stream = stream
        self._left = most
        self.most = most
        self.cut = False

    def chunk(self) -> bytes:
        chunk = b"" if self.cut else self._stream.read(CHUNK)
        self._left -= len(chunk)
        self.cut = self._left < 0
        return b"" if self.cut else chunk


def _not_blank(body: _Body, longest: int) -> Iterator[Line]:
    rest, number, inside_long = b"", 0, False
    while chunk := body.chunk():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            number += 1
            if not inside_long and line.strip():
                yield number, _bounded(line, longest)
            inside_long = False
        if len(rest) > longest:
            if not inside_long:
                yield number + 1, _bounded(rest, longest)
            rest, inside_long = b"", True
    if body.cut:
        yield number + 1, TooLarge(f"the body is larger than {body.most} bytes; from here on no line was taken")
    elif rest.strip() and not inside_long:
        yield number + 1, _bounded(rest, longest)


def _bounded(line: bytes, longest: int) -> bytes | TooLarge:
    return line if len(line) <= longest else TooLarge(f"the line is longer than {longest} bytes")
