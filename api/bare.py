"""Flask without what nobody here uses: it would look for it in every request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface, SessionMixin


class NoSessions(SessionInterface):
    """A request is all there is: nothing is remembered of its sender, and no cookie read or set."""

    _none = NullSession()

    def open_session(self, app: Flask, request: Request) -> SessionMixin:  # noqa: ARG002 - Flask's signature
        """The one that refuses to be written to."""
        return self._none

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Never called, for Flask saves no null session."""


class Bare(Flask):
    """No sessions, and no views that are coroutines."""

    session_interface = NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """As it is: Flask would inspect each function at each call."""
        return func
