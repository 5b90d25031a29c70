"""The lines of a body, one at a time: however long it is, no more than one line and one chunk are in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from api.errors import BodyStalled
from ktqueue.errors import Invalid, TooLarge

CHUNK = 65_536

Line: TypeAlias = tuple[int, bytes | Invalid]
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
    """Every line that is not blank. Where the rest is not taken there is one more, which says why.

    Raises BodyStalled if the client sent nothing at all.
    """
    body = _Body(stream, bounds.total_bytes)
    for taken, (number, line) in enumerate(_not_blank(body, bounds.line_bytes)):
        if taken == bounds.lines:
            yield number, TooLarge(f"there are more than {bounds.lines} jobs; from here on none was taken")
            body.drop()
            return
        yield number, line


class _Body:
    """Chunks up to a bound; ``fault`` is why there are no more, if that was not their end."""

    def __init__(self, stream: Readable, most: int) -> None:
        self._stream = stream
        self._most = most
        self._taken = 0
        self.fault: Invalid | None = None

    def chunk(self) -> bytes:
        if self.fault is not None:
            return b""
        try:
            chunk = self._stream.read(CHUNK)
        except BodyStalled as error:
            if not self._taken:
                raise
            self.fault = error
            return b""
        self._taken += len(chunk)
        if self._taken > self._most:
            self.fault = TooLarge(f"the body is larger than {self._most} bytes; from here on no line was taken")
            return b""
        return chunk

    def drop(self) -> None:
        """Read what still comes: whoever still sends would take a closed connection for a failure."""
        while self.chunk():
            pass


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
    if body.fault is not None:
        # What is wrong with the line that it came in was told already, if that was too long.
        yield number + (2 if inside_long else 1), body.fault
    elif rest.strip() and not inside_long:
        yield number + 1, _bounded(rest, longest)


def _bounded(line: bytes, longest: int) -> bytes | TooLarge:
    return line if len(line) <= longest else TooLarge(f"the line is longer than {longest} bytes")
