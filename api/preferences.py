"""What a submit's headers ask for: `Prefer` (RFC 7240) and `Idempotency-Key`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
from flask import Request

from api.errors import Malformed
from api.query import LONGEST_WAIT_S
from ktqueue.store.base import IdempotencyKey

VISIBLE_ASCII = re.compile(r"[\x21-\x7e]{1,255}")
WAIT = re.compile(r'"?(\d{1,9})"?', re.ASCII)


@dataclass(frozen=True, slots=True)
class Preference:
    """How long to wait for the end of the job, None if that was not asked; ``respond_async`` if that was."""

    wait_s: int | None = None
    respond_async: bool = False

    def applied(self, *, waited: bool) -> str:
        """The value of Preference-Applied."""
        respond_async = ["respond-async"] if self.respond_async else []
        wait = [f"wait={self.wait_s}"] if waited else []
        return ", ".join(respond_async + wait)


def preference(request: Request) -> Preference:
    """From `Prefer`; what is not understood there is ignored, as RFC 7240 wants it."""
    header = request.environ.get("HTTP_PREFER")
    if not header:
        return Preference()
    asked: dict[str, str] = {}
    for part in header.split(","):
        name, _, value = part.partition(";")[0].partition("=")
        asked.setdefault(name.strip().lower(), value.strip())
    wait = WAIT.fullmatch(asked.get("wait", ""))
    return Preference(
        wait_s=min(int(wait[1]), LONGEST_WAIT_S) if wait else None,
        respond_async="respond-async" in asked,
    )


def idempotency_key(request: Request, document: Any) -> IdempotencyKey | None:
    """The key, with a digest of the request's JSON value: neither white space nor the order of fields count."""
    key = request.environ.get("HTTP_IDEMPOTENCY_KEY")
    if key is None:
        return None
    if not VISIBLE_ASCII.fullmatch(key):
        raise Malformed("must be 1-255 visible ASCII characters", field="Idempotency-Key")
    return IdempotencyKey(key, sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest())
