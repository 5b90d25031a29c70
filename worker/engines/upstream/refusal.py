"""What it means that an instance answers with anything but 200."""

from __future__ import annotations

import math
from datetime import datetime
from email.utils import parsedate_to_datetime

import httpx
import orjson

from worker.engines.upstream.outcome import Ending, Outcome
from worker.engines.upstream.reading import said_in

MOST_BYTES = 65_536
THE_REQUEST = frozenset({400, 413, 414, 422, 431})
"""The request is wrong, wherever it is sent."""
THE_CONFIGURATION = frozenset({401, 402, 403, 404, 405, 407, 410, 421, 451})
"""The instance does not take our key, does not have the model, or is no such server; as is any redirect."""
TOO_MANY = 429
UNAVAILABLE = 503
CODES = frozenset({"context_length_exceeded", "content_filter"})
"""Of OpenAI's codes those that clients know from us."""


async def refusal(response: httpx.Response, key: str | None) -> Outcome:
    """What became of the request. ``key`` is not repeated, though the server may."""
    status = response.status_code
    wait_s = retry_after(response.headers)
    document = await _document(response)
    said = said_in(document)
    if key:
        said = said.replace(key, "…")
    if status == TOO_MANY or (status == UNAVAILABLE and wait_s is not None):
        return Outcome(Ending.BUSY, f"the server is busy ({status})", wait_s=wait_s)
    if status in THE_REQUEST:
        code = _code(document)
        return Outcome(Ending.REFUSED, said or f"the server refused the request ({status})", code)
    if status in THE_CONFIGURATION or response.is_redirect:
        return Outcome(Ending.ASTRAY, f"the server answered {status}: {said}")
    return Outcome(Ending.BROKEN, f"the server answered {status}")


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that the server asked for; a date is taken by the server's own clock."""
    told = headers.get("Retry-After", "").strip()
    if told.isascii() and told.isdigit():
        return float(told[:9])
    then, now = _instant(told), _instant(headers.get("Date", ""))
    return None if then is None or now is None else max(0.0, (then - now).total_seconds())


def _instant(told: str) -> datetime | None:
    try:
        instant = parsedate_to_datetime(told)
    except (ValueError, OverflowError):  # the latter of numbers beyond all dates
        return None
    return instant if instant.tzinfo is not None and math.isfinite(instant.timestamp()) else None


async def _document(response: httpx.Response) -> object:
    """The body, as far as it matters: JSON, or a text."""
    data = b""
    async for more in response.aiter_bytes():
        data += more
        if len(data) > MOST_BYTES:
            break
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return data[:MOST_BYTES].decode(errors="replace") if not data.lstrip().startswith(b"<") else ""


def _code(document: object) -> str:
    match document:
        case {"error": {"code": str(code)}} if code in CODES:
            return code
        case _:
            return "invalid_request"
