"""/api/v1/usage: what was used, by day, tenant and model; as JSON or as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

from flask import Flask, request
from werkzeug.datastructures import MultiDict

from api.answers import JSON, Answer, answer
from api.auth import caller
from api.lane_schemas import UsageDay, UsageList
from api.query import parameters, refuse, single
from api.services import ApiServices
from ktqueue.tenant import Scope
from ktqueue.usage import DAY_MS, DayOfUse, UsageQuery

USAGE = "/api/v1/usage"
CSV = "text/csv"
EPOCH = date(1970, 1, 1)
EARLIEST = (date.min - EPOCH).days
DEFAULT_DAYS = 30
MOST_ROWS = 20_000
"""A range that holds more is refused: it can be asked for in parts."""


class Usage:
    """The resource."""

    def __init__(self, services: ApiServices) -> None:
        self._operating = services.operating

    def register(self, app: Flask) -> None:
        """Add the route."""
        app.add_url_rule(USAGE, "usage", self.list, methods=["GET"])

    def list(self) -> Answer:
        """A row for each day, tenant and model that used anything."""
        given = parameters(request, "from", "to", "tenant", "model")
        query = self._query(given)
        days = self._operating.usage(query)
        if len(days) > MOST_ROWS:
            refuse("from", f"the range holds more than {MOST_ROWS} rows; ask for it in parts, or for one model")
        rows = [_row(day) for day in days]
        if request.accept_mimetypes.best_match([JSON, CSV]) == CSV:
            return Answer(_csv(rows), 200, content_type=f"{CSV}; charset=utf-8")
        body: UsageList = {
            "object": "list",
            "from": _told(query.first),
            "to": _told(query.last),
            "data": rows,
            "next_cursor": None,
        }
        return answer(body)

    def _query(self, given: MultiDict[str, str]) -> UsageQuery:
        last = _day(given, "to")
        last = self._operating.now() // DAY_MS if last is None else last
        first = _day(given, "from")
        first = max(EARLIEST, last - DEFAULT_DAYS + 1) if first is None else first
        if first > last:
            refuse("from", "must not be after 'to'")
        return UsageQuery(first, last, _tenant(given), single(given, "model"), limit=MOST_ROWS + 1)


def _tenant(given: MultiDict[str, str]) -> str | None:
    """Whose usage is told: an operator may ask for anybody's, and for everybody's. Raises BrokenRules."""
    asked, asking = single(given, "tenant"), caller()
    if Scope.KEYS_ADMIN in asking.scopes:
        return asked
    if asked not in {None, asking.tenant}:
        refuse("tenant", f"must be your own, {asking.tenant!r}: the key lacks {Scope.KEYS_ADMIN}")
    return asking.tenant


def _day(given: MultiDict[str, str], name: str) -> int | None:
    """A day as YYYY-MM-DD, in days since 1970-01-01. Raises BrokenRules."""
    text = single(given, name)
    if text is None:
        return None
    try:
        return (datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date() - EPOCH).days
    except ValueError:
        refuse(name, "must be a day, as YYYY-MM-DD (UTC)")


def _told(day: int) -> str:
    return (EPOCH + timedelta(days=day)).isoformat()


def _row(day: DayOfUse) -> UsageDay:
    use = day.use
    return {
        "day": _told(day.day),
        "tenant": use.tenant,
        "model": use.model,
        "succeeded": use.succeeded,
        "failed": use.failed,
        "cancelled": use.cancelled,
        "expired": use.expired,
        "prompt_tokens": use.prompt_tokens,
        "completion_tokens": use.completion_tokens,
        "device_seconds": round(use.device_seconds, 6),
    }


def _csv(rows: Sequence[UsageDay]) -> bytes:
    """With a line of names; what a tenant or a model may be named needs no care in a spreadsheet."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(UsageDay.__annotations__))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
