"""/api/v1/deliveries, and those of one job: what webhooks were told, what came of it, and sending it again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from flask import Flask, request
from werkzeug.datastructures import MultiDict

from api import cursor
from api.answers import Answer, answer
from api.auth import tenant
from api.ids import DELIVERY_ID, ENDPOINT_ID, checked_delivery, checked_job, delivery_id, delivery_number
from api.query import integer, parameters, refuse, single
from api.services import ApiServices
from api.webhook_bodies import DELIVERIES, delivery_body, delivery_path
from api.webhook_schemas import DeliveryList
from ktqueue.outbox.base import DeliveryQuery
from ktqueue.representation import JOBS
from ktqueue.webhook import DeliveryState
from ktqueue.webhooks import Told

PAGES = ("limit", "cursor")
FILTERS = ("endpoint", "state", *PAGES)
MOST_DELIVERIES = 200
DEFAULT_DELIVERIES = 50


class Deliveries:
    """The resource."""

    def __init__(self, services: ApiServices) -> None:
        self._webhooks = services.webhooks

    def register(self, app: Flask) -> None:
        """Add the routes."""
        one = f"{DELIVERIES}/<delivery_id>"
        app.add_url_rule(DELIVERIES, "list_deliveries", self.list, methods=["GET"])
        app.add_url_rule(one, "get_delivery", self.get, methods=["GET"])
        app.add_url_rule(f"{one}/redeliver", "redeliver", self.redeliver, methods=["POST"])
        app.add_url_rule(f"{JOBS}/<job_id>/deliveries", "list_job_deliveries", self.of_job, methods=["GET"])

    def list(self) -> Answer:
        """A page of deliveries, newest first."""
        given = parameters(request, *FILTERS)
        query = replace(_paged(given), endpoint=_endpoint(given), state=_state(given))
        return _page(self._webhooks.deliveries, query, attempts=False)

    def of_job(self, job_id: str) -> Answer:
        """A page of what is told of one job, newest first, with every attempt."""
        query = replace(_paged(parameters(request, *PAGES)), job_id=checked_job(job_id))
        return _page(self._webhooks.of_job, query, attempts=True)

    def get(self, delivery_id: str) -> Answer:
        """A delivery with its attempts."""
        parameters(request)
        return answer(delivery_body(self._webhooks.delivery(checked_delivery(delivery_id), tenant()), attempts=True))

    def redeliver(self, delivery_id: str) -> Answer:
        """Send once more what was, or was not, delivered."""
        parameters(request)
        told = self._webhooks.redeliver(checked_delivery(delivery_id), tenant())
        return answer(delivery_body(told, attempts=False), 202, {"Location": delivery_path(told.delivery.id)})


def _paged(given: MultiDict[str, str]) -> DeliveryQuery:
    after = single(given, "cursor")
    return DeliveryQuery(
        tenant=tenant(),
        before=None if after is None else delivery_number(cursor.decode(after, DELIVERY_ID)),
        limit=integer(given, "limit", 1, MOST_DELIVERIES, default=DEFAULT_DELIVERIES),
    )


def _page(find: Callable[[DeliveryQuery], Sequence[Told]], query: DeliveryQuery, *, attempts: bool) -> Answer:
    # One more than fits is asked for: if it is there, there is a next page.
    found = find(replace(query, limit=query.limit + 1))
    shown = found[: query.limit]
    body: DeliveryList = {
        "object": "list",
        "data": [delivery_body(told, attempts=attempts) for told in shown],
        "next_cursor": cursor.encode(delivery_id(shown[-1].delivery.id)) if len(found) > len(shown) else None,
    }
    return answer(body)


def _endpoint(given: MultiDict[str, str]) -> str | None:
    endpoint = single(given, "endpoint")
    if endpoint is not None and not ENDPOINT_ID.fullmatch(endpoint):
        refuse("endpoint", "must be the id of a webhook endpoint: whe_ and 32 hexadecimal digits")
    return endpoint


def _state(given: MultiDict[str, str]) -> DeliveryState | None:
    state = single(given, "state")
    known = [each.value for each in DeliveryState]
    if state is not None and state not in known:
        refuse("state", f"must be one of: {', '.join(known)}")
    return None if state is None else DeliveryState(state)
