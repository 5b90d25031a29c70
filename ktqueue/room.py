"""How much one slot holds at once: jobs, and what of their tokens fits its cache of keys and values. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

PROMPT_TOKENS = 1_000
ANSWER_TOKENS = 200
"""The sizes that room is told for where nobody asks for others."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a slot holds. ``jobs`` is the most at once, however short they are.

    An engine with a cache has all of the rest: ``tokens`` fit, in blocks of ``block_tokens``, each of which belongs to
    one request; ``attention`` names what reads them. One that passes jobs on has ``parts``, the room of each server.
    """

    jobs: int
    tokens: int | None = None
    block_tokens: int | None = None
    attention: str | None = None
    parts: tuple[Room, ...] = ()

    def at_once(self, prompt: int, answer: int) -> int:
        """How many jobs of so many tokens (``prompt`` read, ``answer`` written, 1 or more in all) fit at their longest.

        0: not even one. Prompts that begin alike may share blocks, and then more fit.
        """
        if self.parts:
            return sum(part.at_once(prompt, answer) for part in self.parts)
        if self.tokens is None or self.block_tokens is None:
            return self.jobs
        blocks_each = -(-(prompt + answer) // self.block_tokens)
        return min(self.jobs, self.tokens // self.block_tokens // blocks_each)

    def to_json(self) -> bytes:
        """For other processes."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, told: str | bytes) -> Room:
        """What `to_json` made; what another version of us added to it is passed over."""
        known = orjson.loads(told)
        return cls._of(known)

    @classmethod
    def _of(cls, known: Mapping[str, Any]) -> Room:
        parts = tuple(cls._of(part) for part in known.get("parts", ()))
        return cls(known["jobs"], known.get("tokens"), known.get("block_tokens"), known.get("attention"), parts)

    def __str__(self) -> str:
        """For logs."""
        if self.parts:
            return f"{self.jobs} jobs at once, on {len(self.parts)} servers"
        if self.tokens is None or self.block_tokens is None:
            return f"{self.jobs} jobs at once"
        by = "" if self.attention is None else f", read by {self.attention}"
        return (
            f"{self.jobs} jobs at once,"
            f" {self.at_once(PROMPT_TOKENS, ANSWER_TOKENS)} with prompts of {PROMPT_TOKENS} tokens"
            f" and answers of {ANSWER_TOKENS};"
            f" a cache of {self.tokens} tokens, {self.tokens // self.block_tokens} blocks of {self.block_tokens}{by}"
        )
