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
    """``params`` are ours that it knows, by its own names; ``health`` is where it tells how it is.

    A path with a slash at its front is the server's own, any other the API's. ``tells_usage``: if it is asked in
    OpenAI's way.
    """

    params: Mapping[str, str]
    health: str = "models"
    tells_usage: bool = True


DIALECTS: Mapping[Kind, Dialect] = {
    "openai": Dialect(_OPENAI),
    "ktransformers": Dialect(_BASIC),
    "sglang": Dialect(_OPENAI | _MORE, health="/health"),
    "vllm": Dialect(_OPENAI | _MORE, health="/health"),
    "llama.cpp": Dialect(_OPENAI | {"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty"}),
    "transformers": Dialect(_USUAL, health="/health", tells_usage=False),
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
