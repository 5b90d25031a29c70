"""The cursor of a list: opaque to clients, inside it the id of the page's last job."""

from __future__ import annotations

import binascii
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

from api.errors import Malformed

JOB_ID = re.compile(r"job_[0-9a-f]{32}")
VERSION = b"1:"


def encode(job_id: str) -> str:
    """The cursor for what comes after ``job_id``."""
    return urlsafe_b64encode(VERSION + job_id.encode("ascii")).rstrip(b"=").decode("ascii")


def decode(cursor: str) -> str:
    """The job id in a cursor. Raises Malformed for anything that `encode` did not make."""
    try:
        text = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).removeprefix(VERSION).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    if not JOB_ID.fullmatch(text) or encode(text) != cursor:
        raise Malformed("must be a next_cursor as this server gave it", field="cursor")
    return text
