"""Answers with a JSON body, made without a detour."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import orjson
from flask import Response
from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

BODILESS = frozenset({204, 304})
JSON = "application/json"
LONGEST_RETRY_AFTER_S = 60
JOBS_AHEAD_PER_SECOND = 100
"""How patient to be when nobody knows how fast a lane is: a second more for so many jobs ahead."""


class Answer(Response):
    """A body that is whole: it is handed to the server as a list, which granian sends in one piece.

    Its headers are ours and fit to be sent; werkzeug's own second look at them takes longer than everything else
    about an answer.
    """

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """The headers, with the length of the body."""
        if not self.is_sequence:
            return super().get_wsgi_headers(environ)
        if self.status_code not in BODILESS and "Content-Length" not in self.headers:
            self.headers.add("Content-Length", str(len(self.get_data())))
        return self.headers

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        """The body, unless there is to be none."""
        if not self.is_sequence or self._on_close:
            return super().get_app_iter(environ)
        return [] if environ["REQUEST_METHOD"] == "HEAD" or self.status_code in BODILESS else [self.get_data()]


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """``body`` as JSON."""
    told = Headers()
    told.add("Content-Type", JSON)
    for name, value in headers.items() if headers else ():
        told.add(name, value)
    return Answer([orjson.dumps(body)], status, told)


def etag_of(body: bytes) -> str:
    """A strong entity tag."""
    return blake2b(body, digest_size=12).hexdigest()


def retry_after(eta_s: float | None, ahead: int | None = None) -> str:
    """In how many whole seconds it is worth asking again: it grows with what is ahead."""
    seconds = math.ceil(eta_s) if eta_s is not None else 1 + (ahead or 0) // JOBS_AHEAD_PER_SECOND
    return str(min(max(seconds, 1), LONGEST_RETRY_AFTER_S))
