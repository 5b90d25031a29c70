"""Server-sent events (WHATWG HTML, section 9.2), as far as this API sends them: lines end with LF or CRLF."""

from __future__ import annotations

import json

from ktqueue.client.errors import unreadable
from ktqueue.client.values import Event
from ktqueue.client.wire import Lines


class EventParser:
    """Chunks in, events out. Comments, which are heartbeats, give none; neither does an event cut short."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._id = ""
        self._type = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that are whole now. Raises ServerError if one can't be read."""
        try:
            events = [self._line(line.decode("utf-8")) for line in self._lines.feed(chunk)]
        except ValueError as error:
            raise unreadable("has an event that is not this API's", status=200) from error
        return [event for event in events if event is not None]

    def _line(self, line: str) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "event":
            self._type = value
        elif name == "data":
            self._data.append(value)
        return None

    def _dispatch(self) -> Event | None:
        if not self._data:
            self._type = ""
            return None
        data, kind = "\n".join(self._data), self._type
        self._type, self._data = "", []
        return Event(id=self._id, type=kind or "message", data=json.loads(data))
