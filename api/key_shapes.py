"""Keys as clients ask for them and see them, and what the OpenAPI document says of that."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, Required, cast

from pydantic import Field, PlainValidator, WithJsonSchema, with_config
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from api.inputs import STRICT, Instant
from api.limits import LimitsBody, LimitsRequest, UsedBody, limits_body
from ktqueue.bodies import Time
from ktqueue.errors import Invalid
from ktqueue.registry.base import ApiKey
from ktqueue.tenant import TENANT_NAME, Scope, scopes_named
from ktqueue.times import rfc3339

KEYS = "/api/v1/keys"
LONGEST_NAME = 128
LONGEST_OVERLAP_S = 30 * 86_400


def _scopes(value: object) -> frozenset[Scope]:
    if not (isinstance(value, list) and value and all(isinstance(name, str) for name in value)):
        raise PydanticCustomError("scopes", "must be an array of one or more scopes")
    try:
        return scopes_named([name[:64] for name in value])
    except Invalid as error:
        raise PydanticCustomError("scopes", "{why}", {"why": str(error)}) from error


ScopeName = Annotated[str, WithJsonSchema({"type": "string", "enum": [scope.value for scope in Scope]})]
Scopes = Annotated[
    Any,
    PlainValidator(_scopes),
    WithJsonSchema({"type": "array", "items": {"type": "string", "enum": [s.value for s in Scope]}, "minItems": 1}),
]
TenantName = Annotated[str, Field(max_length=63, pattern=f"^{TENANT_NAME.pattern}$")]


@with_config(STRICT)
class KeyRequest(LimitsRequest, total=False):
    """A key to be made. Left out, `scopes` is all that is no operator's, it never expires, and a limit is none."""

    tenant: Required[Annotated[TenantName, Field(description="Whose jobs it sees and submits.")]]
    name: Annotated[str, Field(max_length=LONGEST_NAME, description="Yours.")]
    scopes: Scopes
    expires_at: Annotated[Instant, Field(description="Until when it is valid.")]


@with_config(STRICT)
class RotateRequest(TypedDict, total=False):
    """How long the key before stays valid."""

    overlap_seconds: Annotated[
        int, Field(ge=0, le=LONGEST_OVERLAP_S, description="86400, a day, if left out; 0 ends it now.")
    ]


class KeyBody(LimitsBody):
    """A key as it is now; `key` is what to send, told once, when it is made, and `used` whenever it is looked at."""

    id: Annotated[str, Field(pattern="^key_[0-9a-f]{32}$")]
    object: Literal["api_key"]
    tenant: str
    name: str
    prefix: Annotated[str, Field(description="How it begins.")]
    scopes: list[ScopeName]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Annotated[Time | None, Field(description="Give or take a minute.")]
    key: NotRequired[str]
    used: NotRequired[UsedBody]


class KeyList(TypedDict):
    """A page of keys, newest first."""

    object: Literal["list"]
    data: list[KeyBody]
    next_cursor: Annotated[str | None, Field(description="For the parameter `cursor`; null on the last page.")]


def key_body(key: ApiKey) -> KeyBody:
    """The JSON of a key, without its text and what it has."""
    told = {
        "id": key.id,
        "object": "api_key",
        "tenant": key.tenant,
        "name": key.name,
        "prefix": f"ktq_{key.prefix}",
        "scopes": sorted(key.scopes),
        "created_at": rfc3339(key.created_at),
        "expires_at": _time(key.expires_at),
        "revoked_at": _time(key.revoked_at),
        "last_used_at": _time(key.last_used_at),
    }
    return cast("KeyBody", told | limits_body(key.limits))


def _time(instant: int | None) -> str | None:
    return None if instant is None else rfc3339(instant)
