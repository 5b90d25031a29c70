"""HTTP as a client of little cost makes it: one kept-alive connection a thread, and no answer is an answer too."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 15.0
BROKEN = (OSError, http.client.HTTPException)
"""How a connection tells that the other side is gone."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``status`` is None where the connection broke, or nothing came in time: then nobody knows what was done."""

    status: int | None
    body: Any = None


NONE = Answer(None)


class Connection:
    """Requests to one server, one at a time. A broken connection is made anew with the next request."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def get(self, path: str) -> Answer:
        """GET some JSON."""
        return self._ask("GET", path, None, {})

    def post(self, path: str, document: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """POST some JSON."""
        body = b"" if document is None else json.dumps(document).encode()
        return self._ask("POST", path, body, {"Content-Type": "application/json", **(headers or {})})

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            self._http.request(method, path, body, dict(headers))
            response = self._http.getresponse()
            content = response.read()
            return Answer(response.status, json.loads(content) if content else None)
        except BROKEN:
            self._http.close()
            return NONE
        except ValueError:
            self._http.close()
            return Answer(response.status)


def server_sent_events(port: int, path: str, last_event_id: str) -> Iterator[tuple[str, Any]]:
    """(id, data) of each event after ``last_event_id``; ends when the stream does, raises BROKEN when it breaks."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)) as connection:
        connection.request("GET", path, headers={"Last-Event-ID": last_event_id} if last_event_id else {})
        response = connection.getresponse()
        event_id = data = ""
        while line := response.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                event_id = value
            elif name == "data":
                data = value
            elif not name and data:
                yield event_id, json.loads(data)
                data = ""
