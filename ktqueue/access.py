"""Who may ask: from what a request says of its sender to a `Caller`."""

from __future__ import annotations

from typing import Protocol

from ktqueue.tenant import Caller


class Access(Protocol):
    """Who knows callers."""

    def caller(self, authorization: str | None) -> Caller:
        """Who sends this `Authorization`."""


class OpenAccess:
    """Everybody who can reach the service is the default tenant."""

    def caller(self, authorization: str | None) -> Caller:  # noqa: ARG002 - nobody is asked who he is
        """The default tenant."""
        return Caller()
