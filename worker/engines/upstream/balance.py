"""Which of several servers gets the next request. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Loaded(Protocol):
    """A server, as far as it matters here."""

    @property
    def work(self) -> int:
        """Tokens of the requests that it has."""

    @property
    def concurrency(self) -> int:
        """Requests that it takes at once, 1 or more."""


Server = TypeVar("Server", bound=Loaded)


def choose(servers: Iterable[Server], tokens: int) -> Server | None:
    """The one with the least work for each request it takes at once, this one of ``tokens`` included.

    Of equals it is the first. One that answers slowly keeps its work longer, and so gets less of it.
    """
    return min(servers, key=lambda server: (server.work + tokens) / server.concurrency, default=None)
