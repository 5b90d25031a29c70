"""/api/v1/keys: make, look, list, limit, revoke, rotate. For operators: whoever may, may for every tenant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import Flask, request

from api import cursor
from api.answers import JSON, Answer, answer
from api.body import decode, read, require_type
from api.errors import as_broken_rules
from api.ids import KEY_ID, checked_key
from api.key_shapes import KEYS, KeyBody, KeyList, KeyRequest, RotateRequest, key_body
from api.limits import LimitsRequest, limits_of, used_body
from api.query import integer, parameters, single
from api.services import ApiServices
from api.shapes import Shape
from ktqueue.keys import OVERLAP_S
from ktqueue.keys import KeyRequest as Asked
from ktqueue.registry.base import ApiKey, KeyQuery
from ktqueue.tenant import CLIENT_SCOPES

MOST_BYTES = 65_536
MOST_KEYS = 200
DEFAULT_KEYS = 50
REQUEST, ROTATE, LIMIT = Shape(KeyRequest), Shape(RotateRequest), Shape(LimitsRequest)
UNSTORED = {"Cache-Control": "no-store"}
"""Of answers that hold a key."""


class Keys:
    """The resource."""

    def __init__(self, services: ApiServices) -> None:
        self._keys = services.keys
        self._quotas = services.quotas

    def register(self, app: Flask) -> None:
        """Add the routes."""
        one = f"{KEYS}/<key_id>"
        app.add_url_rule(KEYS, "create_key", self.create, methods=["POST"])
        app.add_url_rule(KEYS, "list_keys", self.list, methods=["GET"])
        app.add_url_rule(one, "get_key", self.get, methods=["GET"])
        app.add_url_rule(f"{one}/limits", "limit_key", self.limit, methods=["PUT"])
        app.add_url_rule(f"{one}/revoke", "revoke_key", self.revoke, methods=["POST"])
        app.add_url_rule(f"{one}/rotate", "rotate_key", self.rotate, methods=["POST"])

    def create(self) -> Answer:
        """A new key, told this once."""
        parameters(request)
        asked = REQUEST.parse(_document())
        wanted = Asked(
            tenant=asked["tenant"],
            name=asked.get("name", ""),
            scopes=asked.get("scopes", CLIENT_SCOPES),
            expires_at=asked.get("expires_at"),
            limits=limits_of(asked),
        )
        with as_broken_rules():
            made = self._keys.create(wanted)
        return self._made(*made)

    def list(self) -> Answer:
        """A page of keys, newest first, the ended ones too."""
        given = parameters(request, "tenant", "limit", "cursor")
        after = single(given, "cursor")
        query = KeyQuery(
            tenant=single(given, "tenant"),
            before=None if after is None else cursor.decode(after, KEY_ID),
            limit=integer(given, "limit", 1, MOST_KEYS, default=DEFAULT_KEYS),
        )
        # One more than fits is asked for: if it is there, there is a next page.
        found = self._keys.search(replace(query, limit=query.limit + 1))
        shown = found[: query.limit]
        body: KeyList = {
            "object": "list",
            "data": [self._body(key) for key in shown],
            "next_cursor": cursor.encode(shown[-1].id) if len(found) > len(shown) else None,
        }
        return answer(body)

    def get(self, key_id: str) -> Answer:
        """A key as it is."""
        parameters(request)
        return answer(self._body(self._keys.get(checked_key(key_id))))

    def limit(self, key_id: str) -> Answer:
        """Let these limits hold for a key from now on."""
        parameters(request)
        identity, asked = checked_key(key_id), LIMIT.parse(_document())
        return answer(self._body(self._keys.limit(identity, limits_of(asked))))

    def revoke(self, key_id: str) -> Answer:
        """End a key."""
        parameters(request)
        return answer(self._body(self._keys.revoke(checked_key(key_id))))

    def rotate(self, key_id: str) -> Answer:
        """A new key like this one, told this once."""
        parameters(request)
        identity, asked = checked_key(key_id), ROTATE.parse(_document())
        return self._made(*self._keys.rotate(identity, asked.get("overlap_seconds", OVERLAP_S)))

    def _made(self, key: ApiKey, text: str) -> Answer:
        # Nothing is asked of the database any more that could fail: the text would be lost.
        return answer(key_body(key) | {"key": text}, 201, {"Location": f"{KEYS}/{key.id}"} | UNSTORED)

    def _body(self, key: ApiKey) -> KeyBody:
        return key_body(key) | {"used": used_body(self._quotas.used_by_key(key.counted_as))}


def _document() -> Any:
    require_type(request, JSON)
    return decode(read(request, MOST_BYTES))
