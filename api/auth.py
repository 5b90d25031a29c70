"""Who sent a request: decided before anything else is done with it."""

from __future__ import annotations

from flask import Flask, g, request

from ktqueue.access import Access
from ktqueue.tenant import Caller


def register(app: Flask, access: Access) -> None:
    """Ask of each request who sent it."""

    def identify() -> None:
        g.caller = access.caller(request.environ.get("HTTP_AUTHORIZATION"))

    app.before_request(identify)


def caller() -> Caller:
    """Who sent the request that is being answered."""
    found: Caller = g.caller
    return found


def tenant() -> str:
    """Whose things the request is about."""
    return caller().tenant
