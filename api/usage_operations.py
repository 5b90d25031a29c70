"""The operation that tells usage, as the OpenAPI document tells of it."""

from __future__ import annotations

from api.lane_schemas import UsageList
from api.operation import Operation, Reply, parameter
from api.usage import DEFAULT_DAYS, USAGE
from ktqueue.tenant import Scope

DAY = {"type": "string", "format": "date"}

USAGE_OPERATION = Operation(
    "get",
    USAGE,
    "getUsage",
    "usage",
    "What was used, by day, tenant and model; as CSV if `Accept` prefers `text/csv`",
    {200: Reply("Every row of the range.", UsageList)},
    problems=(422, 503),
    parameters=[
        parameter("query", "from", DAY, f"The first day (UTC); left out: {DEFAULT_DAYS} days in all."),
        parameter("query", "to", DAY, "The last day (UTC); left out: today."),
        parameter("query", "tenant", {"type": "string"}, "Only this tenant's; another's only with `keys:admin`."),
        parameter("query", "model", {"type": "string"}, "Only this model's."),
    ],
    scope=Scope.USAGE_READ,
)
