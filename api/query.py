"""Query strings, strictly: an unknown parameter is an error, and so is one that is given twice or out of range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from flask import Request
from werkzeug.datastructures import MultiDict

from api.errors import BrokenRules
from ktqueue.times import unix_ms

LONGEST_WAIT_S = 60
MOST_TOKENS = 10_000_000
NOTHING: MultiDict[str, str] = MultiDict()


def parameters(request: Request, *known: str, prefix: str | None = None) -> MultiDict[str, str]:
    """Those that were given. Raises BrokenRules for one that is not ``known`` and does not begin with ``prefix``."""
    if not request.environ.get("QUERY_STRING"):
        return NOTHING
    given = request.args
    for name, values in given.lists():
        if name not in known and not (prefix and name.startswith(prefix)):
            named = [*known, *([f"{prefix}KEY"] if prefix else [])]
            refuse(name, f"is not a known parameter; known are: {', '.join(named) or 'none'}")
        if any("\0" in value for value in values):
            refuse(name, "must not contain the character NUL (U+0000)")
    return given


def single(given: MultiDict[str, str], name: str) -> str | None:
    """A parameter that may be given once. Raises BrokenRules."""
    values = given.getlist(name)
    if len(values) > 1:
        refuse(name, "must be given only once")
    return values[0] if values else None


def integer(given: MultiDict[str, str], name: str, lowest: int, highest: int, default: int) -> int:
    """A whole number. Raises BrokenRules."""
    text = single(given, name)
    if text is None:
        return default
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(highest))
    if not digits or not lowest <= int(text) <= highest:
        refuse(name, f"must be a whole number from {lowest} to {highest}")
    return int(text)


def wait_seconds(given: MultiDict[str, str]) -> int:
    """The parameter ``wait``; 0 if there is none. Raises BrokenRules."""
    return integer(given, "wait", 0, LONGEST_WAIT_S, default=0)


def tokens(given: MultiDict[str, str], name: str, default: int) -> int:
    """How long a prompt or an answer is. Raises BrokenRules."""
    return integer(given, name, 1, MOST_TOKENS, default)


def instant(given: MultiDict[str, str], name: str) -> int | None:
    """An RFC 3339 time, as Unix milliseconds. Raises BrokenRules."""
    text = single(given, name)
    if text is None:
        return None
    try:
        return unix_ms(text)
    except ValueError as error:
        refuse(name, f"{error} (and a '+' in a query string is written %2B)")


def prefixed(given: MultiDict[str, str], prefix: str) -> Mapping[str, str]:
    """Every ``prefix``KEY=value, by KEY. Raises BrokenRules."""
    names = [name for name in given if name.startswith(prefix)]
    return {name.removeprefix(prefix): single(given, name) or "" for name in names}


def refuse(name: str, message: str) -> NoReturn:
    """Raises BrokenRules about the parameter ``name``."""
    raise BrokenRules([{"field": name, "message": message}])
