"""From what went wrong to an answer: RFC 9457 problem+json. The only place that knows HTTP statuses of domain errors.

400 is for what can't be read (JSON, a header, a cursor), 422 for what was read and breaks a rule.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import orjson
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from api.schemas import FieldError, LineError
from ktqueue.errors import (
    Conflict,
    Forbidden,
    ForeignPage,
    IdempotencyMismatch,
    Invalid,
    KtqueueError,
    LaneDraining,
    LanesUnavailable,
    LimitExceeded,
    NotFound,
    QueueFull,
    StoreUnavailable,
    TooLarge,
    TooLate,
    Unauthenticated,
    Unavailable,
    UnknownHost,
    UnknownModel,
)

PROBLEM = "application/problem+json"
UNAVAILABLE_RETRY_AFTER_S = 2
DRAINING_RETRY_AFTER_S = 5
"""Nobody knows when an operator will resume a lane. The client gives up, and says why, after three such."""
LONGEST_KEY_SHOWN = 64

logger = logging.getLogger(__name__)


class Malformed(Invalid):
    """It can't be read at all: broken JSON, header or cursor."""

    code = "malformed"


class UnsupportedMedia(Invalid):
    """The body's Content-Type is not one that is taken here."""

    code = "unsupported_media_type"


class BodyTooLarge(TooLarge):
    """The whole body is over its bound."""


class BodyStalled(Invalid):
    """The body stopped coming, or came too slowly."""

    code = "request_timeout"


class TooBusy(Unavailable):
    """As many bodies are on their way in as this process takes at once."""

    code = "too_busy"


class TooManyReaders(Unavailable):
    """Every place for readers of events is taken."""

    code = "too_many_readers"


class BrokenRules(Invalid):
    """One or more fields are wrong; ``errors`` lists them, the first is the headline."""

    def __init__(self, errors: Sequence[FieldError], *, too_large: bool = False) -> None:
        first = errors[0]
        path = first["field"]
        super().__init__(f"{path}: {first['message']}" if path else first["message"], field=path)
        self.errors = list(errors)
        if too_large:
            self.code = TooLarge.code


@contextmanager
def as_broken_rules() -> Iterator[None]:
    """Tell of the one field that a use case found wrong as of all that is found wrong here."""
    try:
        yield
    except Invalid as error:
        raise BrokenRules([{"field": error.field, "message": str(error)}]) from error


STATUS: Mapping[type[KtqueueError], HTTPStatus] = {
    Malformed: HTTPStatus.BAD_REQUEST,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    ForeignPage: HTTPStatus.FORBIDDEN,
    UnknownHost: HTTPStatus.FORBIDDEN,
    UnknownModel: HTTPStatus.NOT_FOUND,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    BodyStalled: HTTPStatus.REQUEST_TIMEOUT,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    IdempotencyMismatch: HTTPStatus.UNPROCESSABLE_ENTITY,
    Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    LimitExceeded: HTTPStatus.TOO_MANY_REQUESTS,
    QueueFull: HTTPStatus.TOO_MANY_REQUESTS,
    TooLate: HTTPStatus.TOO_MANY_REQUESTS,
    LaneDraining: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    LanesUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}


def dotted(path: Iterable[str | int]) -> str:
    """A path into a body as one string, keys of any length cut short."""
    parts = [str(part) for part in path]
    return ".".join(part if len(part) <= LONGEST_KEY_SHOWN else f"{part[:LONGEST_KEY_SHOWN]}…" for part in parts)


def status_of(error: KtqueueError) -> HTTPStatus:
    """The status of the nearest class of the tree that has one."""
    return next(
        (STATUS[kind] for kind in type(error).__mro__ if kind in STATUS),
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )


def problem(status: HTTPStatus, detail: str, code: str, **more: Any) -> Response:
    """A problem+json answer; ``more`` are its extension members."""
    body = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail, "code": code}
    return Response(orjson.dumps(body | more), status.value, content_type=PROBLEM)


def line_error(error: KtqueueError) -> LineError:
    """The same for one line of a bulk submit."""
    said: LineError = {"code": _code(error), "message": str(error)}
    if isinstance(error, Invalid) and error.field:
        said["field"] = error.field
    if (seconds := _retry_after(error)) is not None:
        said["retry_after"] = seconds
    return said


def register(app: Flask) -> None:
    """Answer every exception with a problem."""
    app.register_error_handler(KtqueueError, refused)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def refused(error: KtqueueError) -> Response:
    """What a client is told of an error of the tree."""
    status = status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return _unexpected(error)
    more: dict[str, Any] = {}
    if isinstance(error, Invalid) and error.field:
        more["field"] = error.field
    if isinstance(error, BrokenRules):
        more["errors"] = error.errors
    if isinstance(error, UnknownModel):
        more["allowed"] = error.known
    if isinstance(error, Forbidden):
        more["scope"] = error.scope
    response = problem(status, str(error), _code(error), **more)
    if (seconds := _retry_after(error)) is not None:
        response.headers["Retry-After"] = str(seconds)
    if isinstance(error, LimitExceeded):
        g.standings = [*g.get("standings", ()), *error.standings]
    if (challenge := _challenge(error)) is not None:
        response.headers["WWW-Authenticate"] = challenge
    return response


def _challenge(error: KtqueueError) -> str | None:
    """What RFC 6750 wants to be said of a key that is missing, wrong or too weak."""
    if isinstance(error, Forbidden):
        return f'Bearer realm="ktqueue", error="insufficient_scope", scope="{error.scope}"'
    if isinstance(error, Unauthenticated):
        return 'Bearer realm="ktqueue"' + (', error="invalid_token"' if error.given else "")
    return None


def _http(error: HTTPException) -> Response:
    """What Flask itself refuses: no such route, no such method."""
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    response = problem(status, error.description or status.phrase, status.name.lower())
    # Of its headers one matters beyond the content type: Allow, of a 405.
    for name, value in error.get_headers(request.environ):
        if name.lower() != "content-type":
            response.headers[name] = value
    return response


def _unexpected(error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.path, exc_info=error)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return problem(status, "something went wrong here; it has been logged", "internal_error")


def _code(error: KtqueueError) -> str:
    code: str = getattr(error, "code", "internal_error")
    return code


def _retry_after(error: KtqueueError) -> int | None:
    if isinstance(error, QueueFull | TooLate):
        return error.retry_after_s
    if isinstance(error, LaneDraining):
        return DRAINING_RETRY_AFTER_S
    return UNAVAILABLE_RETRY_AFTER_S if isinstance(error, Unavailable) else None
