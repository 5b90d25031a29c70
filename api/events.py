"""/api/v1/jobs/{id}/events: what happens to a job, as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import orjson
from flask import Flask, Response, request

from api.answers import Answer
from api.auth import tenant
from api.errors import Malformed, TooManyReaders
from api.ids import checked_job
from api.query import parameters
from api.services import ApiServices
from api.waits import Waits
from ktqueue.errors import Invalid, NotFound, Unavailable
from ktqueue.events.base import START, Event, EventId
from ktqueue.history import terminal_event
from ktqueue.representation import JOBS

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
RECONNECT = b"retry: 1000\n\n"
HEARTBEAT = b":\n\n"

logger = logging.getLogger(__name__)


class JobEvents:
    """The stream of one job."""

    def __init__(self, services: ApiServices, waits: Waits) -> None:
        self._intake = services.intake
        self._following = services.following
        self._waits = waits

    def register(self, app: Flask) -> None:
        """Add the route."""
        app.add_url_rule(f"{JOBS}/<job_id>/events", "job_events", self.stream, methods=["GET"])

    def stream(self, job_id: str) -> Response:
        """Every event after Last-Event-ID, until the one that ends the job. 204 if that was the last already."""
        parameters(request)
        after = _last_event_id()
        job = self._intake.get(checked_job(job_id), tenant())
        if job.state.terminal and after >= terminal_event(job).id:
            # A browser's EventSource would reconnect for ever after anything else.
            return Answer(b"", 204)
        if request.method == "HEAD":
            return Response(status=200, headers=HEADERS, mimetype="text/event-stream")
        if not self._waits.take():
            raise TooManyReaders("every place for readers of events is taken; poll the job, or try again")
        events = self._following.follow(job_id, after, job.tenant)
        response = Response(_encoded(job_id, events), headers=HEADERS, mimetype="text/event-stream")
        # Not in the generator's own `finally`: one that was never started has none.
        response.call_on_close(self._waits.give_back)
        return response


def _last_event_id() -> EventId:
    text = request.environ.get("HTTP_LAST_EVENT_ID")
    try:
        return EventId.parse(text) if text else START
    except Invalid as error:
        raise Malformed(str(error), field=error.field) from error


def _encoded(job_id: str, events: Iterator[Event | None]) -> Iterator[bytes]:
    yield RECONNECT
    try:
        for event in events:
            yield HEARTBEAT if event is None else _message(event)
    except NotFound:
        logger.info("%s was deleted under a reader", job_id)
    except Unavailable as error:
        logger.warning("a reader of %s has to reconnect: %s", job_id, error)


def _message(event: Event) -> bytes:
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (str(event.id).encode(), event.type.encode(), orjson.dumps(event.data))
