"""Limits as operators set them and see them, of tenants and of keys alike, and what the OpenAPI document says of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, cast

from pydantic import Field, with_config
from typing_extensions import TypedDict

from api.inputs import STRICT
from ktqueue.counted import Used
from ktqueue.tenant import LIMITS, Limits

MOST = 10**15
Limit = Annotated[int | None, Field(ge=1, le=MOST)]


@with_config(STRICT)
class LimitsRequest(TypedDict, total=False):
    """What shall hold; what is left out, or null, is no limit."""

    requests_per_minute: Annotated[Limit, Field(description="Most requests in a minute.")]
    tokens_per_minute: Annotated[Limit, Field(description="Most tokens of jobs submitted in a minute, estimated.")]
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


class LimitsBody(TypedDict):
    """What holds; null is no limit."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    queued_jobs: int | None
    unfinished_jobs: int | None
    queued_bytes: int | None
    stored_bytes: int | None
    running_jobs: int | None


def limits_of(asked: Any) -> Limits:
    """The limits in a request."""
    return Limits(**{name: asked.get(name) for name in LIMITS})


def limits_body(limits: Limits) -> LimitsBody:
    """The JSON of limits."""
    return cast("LimitsBody", asdict(limits))


def used_body(used: Used) -> UsedBody:
    """The JSON of what there is of what limits bound."""
    return cast("UsedBody", asdict(used))
