"""From a request's bytes to a JSON value, within bounds: size, depth, and text that every database can hold."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Request

from api.errors import BodyTooLarge, BrokenRules, Malformed, UnsupportedMedia, dotted

MAX_DEPTH = 64


def require_type(request: Request, wanted: str) -> None:
    """Raises UnsupportedMedia unless the body says that it is ``wanted``."""
    given = request.environ.get("CONTENT_TYPE", "")
    if given != wanted and given.partition(";")[0].strip().lower() != wanted:
        raise UnsupportedMedia(f"the Content-Type must be {wanted}, not {given or 'missing'}", field="Content-Type")


def require_length(request: Request, limit: int) -> None:
    """Raises BodyTooLarge if the body says itself that it is too long."""
    if request.environ.get("HTTP_TRANSFER_ENCODING") == "chunked":
        return
    said = request.environ.get("CONTENT_LENGTH") or ""
    if said.isdecimal() and (len(said) > len(str(limit)) or int(said) > limit):
        raise too_large(limit)


def read(request: Request, limit: int) -> bytes:
    """The whole body, whether or not its length was told. Raises BodyTooLarge."""
    require_length(request, limit)
    # Not `request.stream`, which looks at half of the headers first: the edge hands over a body that is whole.
    body: bytes = request.environ["wsgi.input"].read(limit + 1)
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
    # Looking at every value costs more than everything else: only a body that might offend is looked through.
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        _require_shallow(value)
    if b"\\u0000" in text and (path := _path_of_nul(value)) is not None:
        raise BrokenRules([{"field": dotted(path), "message": "must not contain the character NUL (U+0000)"}])
    return value


def _require_shallow(document: Any) -> None:
    level, depth = [document], 0
    while level:
        if depth == MAX_DEPTH:
            raise Malformed(f"nested deeper than {MAX_DEPTH} levels")
        inner = (part for value in level for part in (value.values() if isinstance(value, dict) else value))
        level, depth = [part for part in inner if isinstance(part, dict | list)], depth + 1


def _path_of_nul(value: Any) -> list[str | int] | None:
    """Where the first text with a NUL is; for a key that has one, the object it is in."""
    if isinstance(value, str):
        return [] if "\0" in value else None
    if not isinstance(value, dict | list):
        return None
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(key, str) and "\0" in key:
            return []
        path = _path_of_nul(inner)
        if path is not None:
            return [key, *path]
    return None
