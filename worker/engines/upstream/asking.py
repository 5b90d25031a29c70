"""From a job to a request in OpenAI's API."""

from __future__ import annotations

from ktqueue.job import JsonObject, Task
from worker.engines.base import Request
from worker.engines.upstream.kinds import Dialect, wished


def path_of(request: Request) -> str:
    """Where it goes, below the API's root."""
    if request.task is Task.EMBED:
        return "embeddings"
    return "chat/completions" if "messages" in request.input else "completions"


def texts_of(request: Request) -> list[str]:
    """What is to be embedded."""
    texts: list[str] = request.input["texts"] if "texts" in request.input else [request.input["text"]]
    return texts


def body_of(request: Request, model: str, dialect: Dialect) -> JsonObject:
    """What is sent. Texts are always streamed, so that they can be passed on and cut off at any token."""
    if request.task is Task.EMBED:
        return {"model": model, "input": texts_of(request), "encoding_format": "float"}
    body: JsonObject = {"model": model, **request.input, **_wishes(request, dialect), "stream": True}
    if dialect.tells_usage:
        body["stream_options"] = {"include_usage": True}
    return body


def _wishes(request: Request, dialect: Dialect) -> JsonObject:
    """Whoever wishes for nothing gets what an engine of ours gives: the likeliest tokens, and so many of them."""
    given = wished(request.params)
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    top = given.pop("top_logprobs", 0)
    if given.pop("logprobs", False) or top:
        given |= {"logprobs": True, "top_logprobs": top} if "messages" in request.input else {"logprobs": top}
    return dialect.neutral | {dialect.params[name]: value for name, value in given.items()}
