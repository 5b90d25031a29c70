"""What the servers of each kind know beyond OpenAI's API, and what they lack of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ktqueue.job import JsonObject
from ktqueue.upstreams import Kind, Upstream
from worker.engines.causal.sampling import Sampling

_BASIC = {name: name for name in ("max_tokens", "temperature", "top_p")}
_USUAL = _BASIC | {name: name for name in ("seed", "stop", "frequency_penalty", "logit_bias")}
_OPENAI = _USUAL | {name: name for name in ("presence_penalty", "n", "logprobs", "top_logprobs")}
_MORE = {name: name for name in ("top_k", "min_p", "repetition_penalty", "min_tokens", "stop_token_ids", "ignore_eos")}
_NOTHING = Sampling()


@dataclass(frozen=True, slots=True)
class Dialect:
    """``params`` are ours that it knows, by its own names; ``neutral``, in those, are sent where a job says nothing.

    Servers have defaults of their own, and many take them from the model; a job's are ours, wherever it runs.
    ``health`` is where it tells how it is: with a slash at its front the server's own path, else one of the API's.
    ``tells_usage`` if it is asked in OpenAI's way; ``tells_finish``, why each text ended, at its end.
    """

    params: Mapping[str, str]
    neutral: JsonObject
    health: str = "models"
    tells_usage: bool = True
    tells_finish: bool = True


_NEUTRAL: JsonObject = {"max_tokens": _NOTHING.max_tokens, "temperature": _NOTHING.temperature, "top_p": 1.0}
_NEUTRAL_MORE: JsonObject = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
_LLAMA = {"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty"}
_NEUTRAL_LLAMA: JsonObject = {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}

DIALECTS: Mapping[Kind, Dialect] = {
    "openai": Dialect(_OPENAI, _NEUTRAL),
    "ktransformers": Dialect(_BASIC, _NEUTRAL, tells_finish=False),
    "sglang": Dialect(_OPENAI | _MORE, _NEUTRAL | _NEUTRAL_MORE, health="/health"),
    "vllm": Dialect(_OPENAI | _MORE, _NEUTRAL | _NEUTRAL_MORE, health="/health"),
    "llama.cpp": Dialect(_OPENAI | _LLAMA, _NEUTRAL | _NEUTRAL_LLAMA),
    "transformers": Dialect(_USUAL, _NEUTRAL, health="/health", tells_usage=False),
}


def wished(params: JsonObject) -> JsonObject:
    """Of a job's params those that change anything."""
    return {name: value for name, value in params.items() if value != getattr(_NOTHING, name)}


def unknown(dialect: Dialect, params: JsonObject) -> list[str]:
    """The params that such a server does not know."""
    return [name for name in wished(params) if name not in dialect.params]


def health_url(upstream: Upstream) -> str:
    """Where an instance tells how it is."""
    path = DIALECTS[upstream.kind].health
    parts = urlsplit(upstream.url)
    return f"{parts.scheme}://{parts.netloc}{path}" if path.startswith("/") else f"{upstream.url}/{path}"
