"""/api/v1/tenants: weights and limits. For operators."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from flask import Flask, request
from pydantic import Field, with_config
from typing_extensions import TypedDict

from api.answers import JSON, Answer, answer
from api.body import decode, read, require_type
from api.inputs import STRICT
from api.limits import LimitsBody, LimitsRequest, UsedBody, limits_body, limits_of, used_body
from api.query import parameters
from api.services import ApiServices
from api.shapes import Shape
from ktqueue.errors import NotFound
from ktqueue.tenant import HEAVIEST, LIGHTEST, TENANT_NAME, Tenant

TENANTS = "/api/v1/tenants"
MOST_BYTES = 65_536


@with_config(STRICT)
class TenantLimits(LimitsRequest, total=False):
    """What shall hold for a tenant; what is left out is no limit, and a weight of 1."""

    weight: Annotated[float, Field(ge=LIGHTEST, le=HEAVIEST, description="Its part of a lane, as to the others'.")]


class TenantBody(LimitsBody):
    """What holds for a tenant; null is no limit."""

    id: str
    object: Literal["tenant"]
    weight: float
    used: UsedBody


class TenantList(TypedDict):
    """The tenants of whom something is written down, by name."""

    object: Literal["list"]
    data: list[TenantBody]
    next_cursor: None


LIMITS = Shape(TenantLimits)


class Tenants:
    """The resource."""

    def __init__(self, services: ApiServices) -> None:
        self._keys = services.keys
        self._quotas = services.quotas

    def register(self, app: Flask) -> None:
        """Add the routes."""
        one = f"{TENANTS}/<tenant>"
        app.add_url_rule(TENANTS, "list_tenants", self.list, methods=["GET"])
        app.add_url_rule(one, "get_tenant", self.get, methods=["GET"])
        app.add_url_rule(one, "put_tenant", self.put, methods=["PUT"])

    def list(self) -> Answer:
        """Everybody of whom something is written down."""
        parameters(request)
        data = [self._body(tenant) for tenant in self._keys.tenants()]
        body: TenantList = {"object": "list", "data": data, "next_cursor": None}
        return answer(body)

    def get(self, tenant: str) -> Answer:
        """What holds for a tenant."""
        parameters(request)
        return answer(self._body(self._keys.tenant(_checked(tenant))))

    def put(self, tenant: str) -> Answer:
        """Let this hold from now on."""
        parameters(request)
        name = _checked(tenant)
        require_type(request, JSON)
        asked: Any = LIMITS.parse(decode(read(request, MOST_BYTES)))
        wanted = Tenant(name, float(asked.get("weight", 1.0)), limits_of(asked))
        return answer(self._body(self._keys.put_tenant(wanted)))

    def _body(self, tenant: Tenant) -> TenantBody:
        return {
            "id": tenant.name,
            "object": "tenant",
            "weight": tenant.weight,
            **limits_body(tenant.limits),
            "used": used_body(self._quotas.used(tenant.name)),
        }


def _checked(name: str) -> str:
    if not TENANT_NAME.fullmatch(name):
        raise NotFound("there is no such tenant: a name is 1-63 of a-z, 0-9 and -")
    return name
