"""How one request to one instance ended, and what that says of the instance and of the job. Values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from ktqueue.job import JobError, Usage


class Ending(Enum):
    """How it ended.

    DONE: answered. REFUSED: the request can't be answered, here or elsewhere. BUSY: not now. ASTRAY: the instance
    does not know us, or we it, which its operator must put right. GONE: the request did not get there. BROKEN: it got
    there, and whatever came back is no answer. LAPSED: we had to leave it.
    """

    DONE = auto()
    REFUSED = auto()
    BUSY = auto()
    ASTRAY = auto()
    GONE = auto()
    BROKEN = auto()
    LAPSED = auto()


@dataclass(frozen=True, slots=True)
class Piece:
    """More of one choice: its text, how likely its tokens were, and why it ended if it did."""

    choice: int
    text: str
    finish: str | None = None
    chances: tuple[dict[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event of a stream says."""

    pieces: tuple[Piece, ...]
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Vectors:
    """The answer to a request for embeddings, in the order of its texts; all of one length."""

    rows: list[list[float]]
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """``said`` is for people; ``wait_s`` for how long an instance that is BUSY asked to be left alone.

    ``over`` says that its answer was read to the end, so that the instance is done with the request. ``vectors`` are
    the answer to a request for some; texts were told while they came.
    """

    ending: Ending
    said: str = ""
    code: str = "upstream_error"
    wait_s: float | None = None
    over: bool = True
    vectors: Vectors | None = None

    def error(self, *, retryable: bool) -> JobError:
        """What the job is told of it."""
        return JobError(self.code, self.said, retryable=retryable)
