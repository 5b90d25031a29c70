"""The operations on keys and tenants, as the OpenAPI document tells of them."""

from __future__ import annotations

from functools import partial

from api.key_shapes import KEYS, KeyBody, KeyList, KeyRequest, RotateRequest
from api.keys import DEFAULT_KEYS, MOST_KEYS
from api.limits import LimitsRequest
from api.operation import Operation, Reply, parameter
from api.tenants import TENANTS, TenantBody, TenantLimits, TenantList
from ktqueue.tenant import Scope

KEY_ID = parameter("path", "key_id", {"type": "string", "pattern": "^key_[0-9a-f]{32}$"}, "The key's id.")
TENANT = parameter("path", "tenant", {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$"}, "Its name.")
FILTERS = [
    parameter("query", "tenant", {"type": "string"}, "Keys of this tenant."),
    parameter(
        "query",
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MOST_KEYS, "default": DEFAULT_KEYS},
        "Most keys on this page.",
    ),
    parameter("query", "cursor", {"type": "string"}, "`next_cursor` of the page before."),
]
MADE = Reply(
    "The key, with its text, which is never told again.",
    KeyBody,
    headers={"Location": "Where the key is.", "Cache-Control": "`no-store`: it holds a secret."},
)

_operation = partial(Operation, tag="keys", scope=Scope.KEYS_ADMIN)

KEY_OPERATIONS = [
    _operation(
        "post",
        KEYS,
        "createKey",
        summary="Make a key",
        replies={201: MADE},
        problems=(400, 408, 413, 415, 422),
        body=KeyRequest,
    ),
    _operation(
        "get",
        KEYS,
        "listKeys",
        summary="List keys, newest first, the ended ones too",
        replies={200: Reply("A page.", KeyList)},
        problems=(400, 422),
        parameters=FILTERS,
    ),
    _operation(
        "get",
        f"{KEYS}/{{key_id}}",
        "getKey",
        summary="Look at a key",
        replies={200: Reply("The key.", KeyBody)},
        problems=(404, 422),
        parameters=[KEY_ID],
    ),
    _operation(
        "put",
        f"{KEYS}/{{key_id}}/limits",
        "limitKey",
        summary="Say what a key may have, and what it was rotated to, within seconds; what is left out is no limit",
        replies={200: Reply("The key.", KeyBody)},
        problems=(400, 404, 408, 413, 415, 422),
        parameters=[KEY_ID],
        body=LimitsRequest,
    ),
    _operation(
        "post",
        f"{KEYS}/{{key_id}}/revoke",
        "revokeKey",
        summary="End a key; within 5 seconds nobody is let in by it",
        replies={200: Reply("The key as it now is.", KeyBody)},
        problems=(404, 422),
        parameters=[KEY_ID],
    ),
    _operation(
        "post",
        f"{KEYS}/{{key_id}}/rotate",
        "rotateKey",
        summary="Make a new key like this one, which ends a day later, or when it is said",
        replies={201: MADE},
        problems=(400, 404, 408, 409, 413, 415, 422),
        parameters=[KEY_ID],
        body=RotateRequest,
    ),
    _operation(
        "get",
        TENANTS,
        "listTenants",
        summary="List the tenants of whom something is written down",
        replies={200: Reply("All, by name.", TenantList)},
        problems=(422,),
    ),
    _operation(
        "get",
        f"{TENANTS}/{{tenant}}",
        "getTenant",
        summary="Look at what holds for a tenant",
        replies={200: Reply("The tenant.", TenantBody)},
        problems=(404, 422),
        parameters=[TENANT],
    ),
    _operation(
        "put",
        f"{TENANTS}/{{tenant}}",
        "putTenant",
        summary="Say what holds for a tenant, within seconds; what is left out is no limit",
        replies={200: Reply("The tenant.", TenantBody)},
        problems=(400, 404, 408, 413, 415, 422),
        parameters=[TENANT],
        body=TenantLimits,
    ),
]
