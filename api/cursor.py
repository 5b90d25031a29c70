"""The cursor of a list: opaque to clients, inside it the id of what is last on the page."""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

from api.errors import Malformed

VERSION = b"1:"


def encode(identity: str) -> str:
    """The cursor for what comes after ``identity``."""
    return urlsafe_b64encode(VERSION + identity.encode("ascii")).rstrip(b"=").decode("ascii")


def decode(cursor: str, ids: re.Pattern[str]) -> str:
    """The id in a cursor, one of ``ids``. Raises Malformed for anything that `encode` did not make."""
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).removeprefix(VERSION).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    if not ids.fullmatch(text) or encode(text) != cursor:
        raise Malformed("must be a next_cursor as this server gave it", field="cursor")
    return text
