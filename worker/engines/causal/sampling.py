"""What a request wishes its tokens to be like. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ktqueue.job import JsonObject

MOST_BIASES = 300
"""The most tokens that one request's ``logit_bias`` can name."""

MOST_STOP_TOKENS = 64
"""The most ``stop_token_ids`` that one request can have."""

MOST_TOP = 20
"""The most ``top_logprobs`` that one request can have."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """One request's wishes; the defaults wish for nothing but the likeliest tokens.

    ``temperature`` 0 takes the likeliest token; ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 limit nothing, nor do a
    ``repetition_penalty`` of 1 and others of 0. ``logit_bias`` has pairs of a token and what is added to its logit.
    Before ``min_tokens`` nothing ends an answer. ``top_logprobs`` likeliest tokens are told beside each one that was
    drawn. ``n`` is how many answers are given.
    """

    max_tokens: int = 256
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    n: int = 1


def sampling_of(params: JsonObject) -> Sampling:
    """Read a job's params, which were validated; what they do not say has the default."""
    wishes = {field.name: params[field.name] for field in fields(Sampling) if field.name in params}
    stop: str | list[str] = wishes.get("stop", [])
    biases: Mapping[str, float] = wishes.get("logit_bias", {})
    wishes["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    wishes["logit_bias"] = tuple((int(token), float(bias)) for token, bias in biases.items())
    wishes["stop_token_ids"] = frozenset(wishes.get("stop_token_ids", []))
    wishes["logprobs"] = bool(wishes.get("logprobs") or wishes.get("top_logprobs"))
    return Sampling(**wishes)


def largest_token(sampling: Sampling) -> int:
    """The largest token id that a request names itself, -1 if it names none: a model may not have it."""
    return max([token for token, _ in sampling.logit_bias] + list(sampling.stop_token_ids), default=-1)
