"""How many chances of tokens one request may ask to be told: they are held until it ends, and told at once. Pure."""

from __future__ import annotations

from ktqueue.cost import DEFAULT_MAX_TOKENS
from ktqueue.job import JsonObject

MOST_CHANCES = 688_128
"""Those of one text of 32,768 tokens, and of the 20 likeliest beside each: 200 MB when it ends, and 37 MB of JSON."""


def too_many_chances(params: JsonObject, room: int | None = None) -> str | None:
    """Why these params of `generate`, which are valid one by one, ask for more than that; None if they do not.

    With ``room`` for so many tokens a text has no more than those, whatever ``max_tokens`` says.
    """
    top = params.get("top_logprobs", 0)
    if not (top or params.get("logprobs")):
        return None
    texts, tokens = params.get("n", 1), params.get("max_tokens", DEFAULT_MAX_TOKENS)
    if room is not None:
        tokens = min(tokens, room)
    told = texts * tokens * (1 + top)
    if told <= MOST_CHANCES:
        return None
    return (
        f"n * max_tokens * (1 + top_logprobs) must be at most {MOST_CHANCES}; {texts} * {tokens} * {1 + top} is {told}"
    )
