"""From a request's bytes to a JSON value, within bounds: size, depth, and text that every database can hold."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Request

from api.errors import BodyTooLarge, BrokenRules, Malformed, UnsupportedMedia

MAX_DEPTH = 64


def require_type(request: Request, wanted: str) -> None:
    """Raises UnsupportedMedia unless the body says that it is ``wanted``."""
    given = request.environ.get("CONTENT_TYPE", "")
    if given != wanted and given.partition(";")[0].strip().lower() != wanted:
        raise UnsupportedMedia(f"the Content-Type must be {wanted}, not {given or 'missing'}", field="Content-Type")


def require_length(request: Request, limit: int) -> None:
    """Raises BodyTooLarge if the body says itself that it is too long."""
    if (request.content_length or 0) > limit:
        raise too_large(limit)


def read(request: Request, limit: int) -> bytes:
    """The whole body, whether or not its length was told. Raises BodyTooLarge."""
    require_length(request, limit)
    body = request.stream.read(limit + 1)
    if len(body) > limit:
        raise too_large(limit)
    return body


def too_large(limit: int) -> BodyTooLarge:
    """The refusal of a body of more than ``limit`` bytes."""
    return BodyTooLarge(f"the body is larger than {limit} bytes, the most that is taken")


def decode(text: bytes) -> Any:
    """JSON, strictly: UTF-8, no NaN, no lone surrogate, no NUL, at most 64 levels. Raises Malformed, BrokenRules."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"not valid JSON: {error}") from error
    # Looking at every value costs more than everything else, so only a body that might offend is looked through.
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH or b"\\u0000" in text:
        _look_through(value)
    return value


def _look_through(document: Any) -> None:
    rest: list[tuple[Any, tuple[str | int, ...]]] = [(document, ())]
    while rest:
        value, path = rest.pop()
        if isinstance(value, str):
            _require_no_nul(value, path)
            continue
        if len(path) >= MAX_DEPTH:
            raise Malformed(f"nested deeper than {MAX_DEPTH} levels")
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(key, str):
                _require_no_nul(key, path)
            if isinstance(inner, str | dict | list):
                rest.append((inner, (*path, key)))


def _require_no_nul(text: str, path: tuple[str | int, ...]) -> None:
    if "\0" in text:
        field = ".".join(str(part) for part in path)
        raise BrokenRules([{"field": field, "message": "must not contain the character NUL (U+0000)"}])
