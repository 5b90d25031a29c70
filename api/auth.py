"""Who sent a request, and whether he may: decided before anything else is done with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from flask import Flask, Response, g
from flask.globals import request_ctx

from api.foreign import Check
from api.operation import Operation
from ktqueue.access import Access
from ktqueue.errors import Forbidden
from ktqueue.quotas import Quotas, Standing
from ktqueue.rates.base import WINDOW_S
from ktqueue.tenant import Caller, Scope

UNDOCUMENTED = frozenset({"home", "openapi", "docs", "docs_file"})
"""What tells of the API, and is for everybody."""
_VARIABLE = re.compile(r"<(?:\w+:)?(\w+)>")


def register(app: Flask, access: Access, quotas: Quotas, operations: Iterable[Operation], check: Check) -> None:
    """Ask of each request who sent it, but for those that are for everybody. Call it once every route is there.

    What is sent without a key has to pass the ``check``.

    Raises KeyError for a route that no operation tells of, so that none is open by mistake.
    """
    scopes = _scopes(app, {(operation.method, operation.path): operation.scope for operation in operations})

    def identify() -> None:
        # Itself, for `request` looks for it again whenever it is asked for something.
        here = request_ctx.request
        asked = here.endpoint, here.method
        # A path that is not there, or a method that is not, is nobody's business either.
        scope = scopes.get(asked)
        if scope is None and here.endpoint is not None and asked in scopes:
            return
        g.caller = sender = access.caller(here.environ.get("HTTP_AUTHORIZATION"))
        if sender.key is None:
            check(here.method, here.environ)
        if scope is not None and scope not in sender.scopes:
            raise Forbidden(scope)
        g.standings = quotas.request(sender)

    app.before_request(identify)
    app.after_request(_tell_standings)


def _tell_standings(response: Response) -> Response:
    """`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10)."""
    standings: Sequence[Standing] = g.get("standings", ())
    if standings:
        policies = (f'"{each.name}";q={each.most};w={WINDOW_S}' for each in standings)
        left = (f'"{each.name}";r={each.left.remaining};t={each.left.reset_s}' for each in standings)
        response.headers["RateLimit-Policy"] = ", ".join(policies)
        response.headers["RateLimit"] = ", ".join(left)
    return response


def _scopes(app: Flask, told: dict[tuple[str, str], Scope | None]) -> dict[tuple[str | None, str], Scope | None]:
    found: dict[tuple[str | None, str], Scope | None] = {}
    for rule in app.url_map.iter_rules():
        path = _VARIABLE.sub(r"{\1}", rule.rule)
        for method in (rule.methods or set()) - {"OPTIONS"}:
            asked = "get" if method == "HEAD" else method.lower()
            found[rule.endpoint, method] = None if rule.endpoint in UNDOCUMENTED else told[asked, path]
    return found


def caller() -> Caller:
    """Who sent the request that is being answered."""
    found: Caller = g.caller
    return found


def tenant() -> str:
    """Whose things the request is about."""
    return caller().tenant
