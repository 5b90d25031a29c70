"""What a job costs, in tokens that a model has to compute: estimated as it comes, known once it has ended. Pure.

A text is about four characters a token. `generate` computes its prompt and, for each choice, as many tokens as it may;
an encoder pads all texts of a batch to the longest, so a job costs its longest text as often as it has texts. Echo
computes nothing: a millisecond of its delay is told as a token.
"""

from __future__ import annotations

from collections.abc import Sequence

from ktqueue.job import JsonObject, Task, Usage

CHARACTERS_A_TOKEN = 4
DEFAULT_MAX_TOKENS = 256
MOST = 2**31 - 1
"""What a row can hold."""


def estimated_cost(task: Task, input: JsonObject, params: JsonObject) -> int:  # noqa: A002 - a job's own word
    """Tokens, at least 1."""
    cost: int
    match task:
        case Task.GENERATE:
            cost = _tokens(_prompt(input)) + params.get("n", 1) * params.get("max_tokens", DEFAULT_MAX_TOKENS)
        case Task.ECHO:
            cost = params.get("delay_ms", 0)
        case _:
            texts = _texts(task, input)
            cost = len(texts) * max(map(_tokens, texts))
    return min(MOST, max(1, cost))


def true_cost(task: Task, input: JsonObject, estimate: int, usage: Usage | None) -> int:  # noqa: A002 - a job's own word
    """Tokens, at least 1, by what was used; the estimate, if nobody counted."""
    if usage is None or task is Task.ECHO:
        return estimate
    cost = usage.prompt_tokens + usage.completion_tokens
    if task is not Task.GENERATE:
        # Their padding is not counted. It is taken to be in the proportion that was estimated.
        cost = cost * estimate // max(1, sum(map(_tokens, _texts(task, input))))
    return min(MOST, max(1, cost))


def _tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_A_TOKEN)


def _prompt(given: JsonObject) -> str:
    prompt: str | None = given.get("prompt")
    return prompt if prompt is not None else "".join(message["content"] for message in given["messages"])


def _texts(task: Task, given: JsonObject) -> Sequence[str]:
    if task is Task.RERANK:
        return [given["query"] + document for document in given["documents"]]
    return given["texts"] if "texts" in given else [given["text"]]
