"""Lists that come page by page."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import TypeVar

from ktqueue.client.sending import Sender
from ktqueue.client.values import Value
from ktqueue.client.wire import Request

V = TypeVar("V", bound=Value)

GROUP = 100
"""Ids in one request of `as_completed`, and items on one page of a list."""


async def items(sender: Sender, path: str, query: Sequence[tuple[str, str]], kind: type[V]) -> AsyncGenerator[V, None]:
    """Each item of a list; the next page is fetched when it is needed. Raises ConnectionFailed, ApiError."""
    cursor: list[tuple[str, str]] = []
    while True:
        reply = await sender.call(Request("GET", path, query=[*query, ("limit", str(GROUP)), *cursor]))
        for item in reply.values(kind):
            yield item
        following = reply.json().get("next_cursor")
        if following is None:
            return
        cursor = [("cursor", str(following))]
