"""From what an instance sends to what it says. Anything that is not as it must be is an error of that attempt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ktqueue.job import Usage
from worker.engines.upstream.outcome import Chunk, Piece, Vectors

LONGEST_SAID = 300
FINISHES = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "tool_calls": "stop",
    "function_call": "stop",
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
}


class Nonsense(Exception):
    """What came is no answer; ``str()`` of it says why."""


def chunk_of(data: bytes, choices: int) -> Chunk:
    """One event of a stream of so many choices. Raises Nonsense."""
    document = _object(data)
    if document.get("error"):
        raise Nonsense(f"it broke off: {said_in(document)}")
    pieces = tuple(_piece(choice, choices) for choice in _list(document.get("choices", []), "choices"))
    return Chunk(pieces, _usage(document.get("usage")))


def vectors_of(data: bytes, texts: int) -> Vectors:
    """The answer to a request to embed so many texts. Raises Nonsense."""
    document = _object(data)
    entries = _list(document.get("data"), "data")
    rows: dict[int, list[float]] = {}
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise Nonsense("data: holds what is no object")
        rows[_count(entry.get("index", place), "index")] = _row(entry.get("embedding"))
    if len(entries) != texts or sorted(rows) != list(range(texts)):
        raise Nonsense(f"{len(entries)} embeddings for {texts} texts")
    if len({len(row) for row in rows.values()}) != 1:
        raise Nonsense("embeddings of different lengths")
    return Vectors([rows[place] for place in range(texts)], _usage(document.get("usage")))


def said_in(document: object) -> str:
    """The message in an error's body, for people: one line, bounded."""
    text = _message(document)
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 4 * LONGEST_SAID]).split())[
        :LONGEST_SAID
    ]


def _message(document: object) -> str:
    match document:
        case {"error": {"message": str(message)}} | {"error": str(message)}:
            return message
        case {"message": str(message)} | {"detail": str(message)}:
            return message
        case str(message):
            return message
        case _:
            return _whole(document) if document else ""


def _whole(document: object) -> str:
    try:
        return orjson.dumps(document).decode()
    except orjson.JSONEncodeError:  # nested deeper than it writes, though not than it reads
        return ""


def _object(data: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Nonsense(f"what came is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Nonsense("what came is no JSON object")
    return document


def _piece(choice: object, choices: int) -> Piece:
    if not isinstance(choice, dict):
        raise Nonsense("choices: holds what is no object")
    number = _count(choice.get("index", 0), "index")
    if number >= choices:
        raise Nonsense(f"choices: index {number} of {choices}")
    delta = choice.get("delta")
    text = delta.get("content") if isinstance(delta, dict) else choice.get("text")
    if text is not None and not isinstance(text, str):
        raise Nonsense("choices: a text is not a string")
    finish = choice.get("finish_reason") or None
    if finish is not None and not (isinstance(finish, str) and finish in FINISHES):
        raise Nonsense(f"it ended for {str(finish)[:64]!r}")
    return Piece(number, text or "", finish and FINISHES[finish], _chances(choice.get("logprobs")))


def _chances(told: object) -> tuple[dict[str, object], ...]:
    match told:
        case None:
            return ()
        case {"content": None}:
            return ()
        case {"content": list(entries)}:
            return tuple(_chance(entry) | {"top": _top(entry)} for entry in entries)
        case {"tokens": list(tokens), "token_logprobs": list(logprobs), **rest}:
            return _old_chances(tokens, logprobs, rest.get("top_logprobs"))
        case _:
            raise Nonsense("logprobs: not in a shape that is known")


def _top(entry: dict[str, Any]) -> list[dict[str, object]]:
    return [_chance(each) for each in _list(entry.get("top_logprobs") or [], "logprobs")]


def _old_chances(tokens: Sequence[object], logprobs: Sequence[object], top: object) -> tuple[dict[str, object], ...]:
    """As /completions tells them: in columns."""
    tops = top if isinstance(top, list) else [None] * len(tokens)
    if not len(tokens) == len(logprobs) == len(tops):
        raise Nonsense("logprobs: columns of different lengths")
    rows = zip(tokens, logprobs, tops, strict=True)
    return tuple(
        _chance({"token": token, "logprob": logprob})
        | {"top": [_chance({"token": each, "logprob": chance}) for each, chance in _ranked(best)]}
        for token, logprob, best in rows
    )


def _ranked(best: object) -> list[tuple[object, object]]:
    if not best:
        return []
    if not (isinstance(best, dict) and all(_is_number(chance) for chance in best.values())):
        raise Nonsense("logprobs: not in a shape that is known")
    return sorted(best.items(), key=lambda pair: -pair[1])


def _chance(entry: object) -> dict[str, object]:
    match entry:
        case {"token": str(token), "logprob": logprob} if _is_number(logprob):
            return {"token": token, "logprob": logprob}
        case _:
            raise Nonsense("logprobs: not in a shape that is known")


def _usage(told: object) -> Usage | None:
    if told is None:
        return None
    if not isinstance(told, Mapping):
        raise Nonsense("usage: is no object")
    prompt = _count(told.get("prompt_tokens", 0), "usage")
    return Usage(prompt, _count(told.get("completion_tokens") or 0, "usage"))


def _row(told: object) -> list[float]:
    row = _list(told, "embedding")
    if not row or not all(_is_number(number) for number in row):
        raise Nonsense("embedding: is no list of numbers")
    return [float(number) for number in row]


def _list(told: object, name: str) -> list[Any]:
    if not isinstance(told, list):
        raise Nonsense(f"{name}: is no list")
    return told


def _count(told: object, name: str) -> int:
    if not isinstance(told, int) or isinstance(told, bool) or not 0 <= told < 2**31:
        raise Nonsense(f"{name}: is no count")
    return told


def _is_number(told: object) -> bool:
    return isinstance(told, int | float) and not isinstance(told, bool) and math.isfinite(told)
