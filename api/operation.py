"""How one operation of the API is described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from api.answers import JSON
from ktqueue.tenant import Scope

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: what it means, its body if it has one, and its headers by name with what they say."""

    means: str
    body: Any = None
    media: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. ``problems`` are the statuses that it may answer with problem+json.

    ``scope`` is what a key needs for it; None: it is for everybody. Whatever needs a key may answer 401 and 403.
    """

    method: str
    path: str
    id: str
    tag: str
    summary: str
    replies: Mapping[int, Reply]
    problems: Sequence[int] = ()
    parameters: Sequence[JsonObject] = ()
    body: Any = None
    media: str = JSON
    scope: Scope | None = field(kw_only=True)


def parameter(where: str, name: str, schema: JsonObject, description: str) -> JsonObject:
    """A parameter of an operation; ``where`` it stands is `path`, `query` or `header`."""
    told = {"in": where, "name": name, "schema": schema, "description": description}
    return told | ({"required": True} if where == "path" else {})


JOB_ID = parameter("path", "job_id", {"type": "string", "pattern": "^job_[0-9a-f]{32}$"}, "The job's id.")
