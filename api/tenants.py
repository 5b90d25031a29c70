"""/api/v1/tenants: weights and limits. For operators."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from flask import Flask, request
from pydantic import Field, with_config
from typing_extensions import TypedDict

from api.answers import JSON, Answer, answer
from api.body import decode, read, require_type
from api.inputs import STRICT
from api.key_shapes import Limit, RequestRate, TokenRate, rates_of
from api.query import parameters
from api.services import ApiServices
from api.shapes import Shape
from ktqueue.errors import NotFound
from ktqueue.quotas import Used
from ktqueue.tenant import TENANT_NAME, Tenant

TENANTS = "/api/v1/tenants"
MOST_BYTES = 65_536
HEAVIEST = 1_000.0


@with_config(STRICT)
class TenantLimits(TypedDict, total=False):
    """What shall hold for a tenant; what is left out is no limit, and a weight of 1."""

    weight: Annotated[float, Field(gt=0, le=HEAVIEST, description="Its part of a lane, as to the others'.")]
    requests_per_minute: RequestRate
    tokens_per_minute: TokenRate
    queued_jobs: Annotated[Limit, Field(description="Most jobs that wait.")]
    unfinished_jobs: Annotated[Limit, Field(description="Most jobs that wait or run.")]
    queued_bytes: Annotated[Limit, Field(description="Most bytes of input, params and metadata of jobs that wait.")]
    stored_bytes: Annotated[Limit, Field(description="Most bytes of those and of results, of all jobs that are kept.")]
    running_jobs: Annotated[Limit, Field(description="Most jobs that run at once, of all models; others wait.")]


class UsedBody(TypedDict):
    """What it has of what its limits of these names bound, as counted within the last seconds."""

    queued_jobs: int
    unfinished_jobs: int
    queued_bytes: int
    stored_bytes: int
    running_jobs: int


class TenantBody(TypedDict):
    """What holds for a tenant; null is no limit."""

    id: str
    object: Literal["tenant"]
    weight: float
    requests_per_minute: int | None
    tokens_per_minute: int | None
    queued_jobs: int | None
    unfinished_jobs: int | None
    queued_bytes: int | None
    stored_bytes: int | None
    running_jobs: int | None
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
        wanted = Tenant(
            name,
            weight=float(asked.get("weight", 1.0)),
            rates=rates_of(asked),
            queued_jobs=asked.get("queued_jobs"),
            unfinished_jobs=asked.get("unfinished_jobs"),
            queued_bytes=asked.get("queued_bytes"),
            stored_bytes=asked.get("stored_bytes"),
            running_jobs=asked.get("running_jobs"),
        )
        return answer(self._body(self._keys.put_tenant(wanted)))

    def _body(self, tenant: Tenant) -> TenantBody:
        return tenant_body(tenant, self._quotas.used(tenant.name))


def tenant_body(tenant: Tenant, used: Used) -> TenantBody:
    """The JSON of a tenant."""
    return {
        "id": tenant.name,
        "object": "tenant",
        "weight": tenant.weight,
        "requests_per_minute": tenant.rates.requests_per_minute,
        "tokens_per_minute": tenant.rates.tokens_per_minute,
        "queued_jobs": tenant.queued_jobs,
        "unfinished_jobs": tenant.unfinished_jobs,
        "queued_bytes": tenant.queued_bytes,
        "stored_bytes": tenant.stored_bytes,
        "running_jobs": tenant.running_jobs,
        "used": {
            "queued_jobs": used.queued_jobs,
            "unfinished_jobs": used.unfinished_jobs,
            "queued_bytes": used.queued_bytes,
            "stored_bytes": used.stored_bytes,
            "running_jobs": used.running_jobs,
        },
    }


def _checked(name: str) -> str:
    if not TENANT_NAME.fullmatch(name):
        raise NotFound("there is no such tenant: a name is 1-63 of a-z, 0-9 and -")
    return name
