"""What was used, as JSON and as CSV."""

from __future__ import annotations

from typing import Any

import pytest

from api.usage import MOST_ROWS
from ktqueue.job import JobState, JsonObject, Usage
from ktqueue.tenant import Caller, Scope
from ktqueue.usage import Bill
from tests.api.wiring import Api, json_of, problem_of

USAGE = "/api/v1/usage"
TODAY = "2025-06-15"
"""On the scene's clock."""


@pytest.fixture
def used(api: Api) -> Api:
    """Two jobs that succeeded and one that was cancelled; a day later one that failed."""
    for _ in range(2):
        api.accepted()
    jobs = api.scene.claim()
    settled = [api.scene.execution.success(job, {}, Usage(3, 4), 2, device_s=0.1234567) for job in jobs]
    api.scene.execution.settle(settled)
    cancelled = api.accepted()
    api.client.post(f"/api/v1/jobs/{cancelled['id']}/cancel")
    api.scene.clock.sleep(86_400)
    api.accepted()
    api.fail()
    return api


def row(**more: Any) -> JsonObject:
    nothing = {"succeeded": 0, "failed": 0, "cancelled": 0, "expired": 0, "prompt_tokens": 0, "completion_tokens": 0}
    return {"day": TODAY, "tenant": "default", "model": "echo", **nothing, "device_seconds": 0.0} | more


FIRST = row(succeeded=2, cancelled=1, prompt_tokens=6, completion_tokens=8, device_seconds=0.246913)
SECOND = row(day="2025-06-16", failed=1)


def asked(api: Api, query: str) -> JsonObject:
    return json_of(api.client.get(f"{USAGE}{query}"), 200)


def test_usage_is_told_day_by_day(used: Api) -> None:
    assert asked(used, "") == {
        "object": "list",
        "from": "2025-05-18",
        "to": "2025-06-16",
        "data": [FIRST, SECOND],
        "next_cursor": None,
    }
    assert asked(used, f"?to={TODAY}")["data"] == [FIRST]
    assert asked(used, "?from=2025-06-16&to=2025-06-30")["data"] == [SECOND]
    assert asked(used, "?to=0001-01-02")["from"] == "0001-01-01"
    assert asked(used, "?model=chat")["data"] == []
    assert asked(used, "?tenant=default&model=echo")["data"] == [FIRST, SECOND]


def test_usage_is_a_table_for_who_prefers_one(used: Api) -> None:
    answer = used.client.get(f"{USAGE}?to={TODAY}", headers={"Accept": "text/csv"})
    assert answer.content_type == "text/csv; charset=utf-8"
    assert answer.get_data(as_text=True).splitlines() == [
        "day,tenant,model,succeeded,failed,cancelled,expired,prompt_tokens,completion_tokens,device_seconds",
        "2025-06-15,default,echo,2,0,1,0,6,8,0.246913",
    ]
    for accept in ("*/*", "application/json, text/csv;q=0.5"):
        assert used.client.get(USAGE, headers={"Accept": accept}).content_type == "application/json"


def test_a_job_tells_what_it_used(used: Api) -> None:
    states = {job["state"]: job["usage"] for job in json_of(used.client.get("/api/v1/jobs"), 200)["data"]}
    assert states["succeeded"] == {"prompt_tokens": 3, "completion_tokens": 4, "device_seconds": 0.123457}
    assert states["failed"] == {"prompt_tokens": 0, "completion_tokens": 0, "device_seconds": 0.0}
    assert states["cancelled"] is None


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("from=yesterday", "from"),
        ("to=2025-02-30", "to"),
        ("from=2025-06-02&to=2025-06-01", "from"),
        ("from=2025-06-01&from=2025-06-01", "from"),
        ("day=2025-06-01", "day"),
    ],
)
def test_what_is_refused(api: Api, query: str, field: str) -> None:
    assert problem_of(api.client.get(f"{USAGE}?{query}"), 422)["field"] == field


class Holder:
    """Whoever asks has a key of this tenant, with ``scopes``."""

    def __init__(self, *scopes: Scope) -> None:
        self._scopes = frozenset(scopes)

    def caller(self, authorization: str | None) -> Caller:
        return Caller("us", self._scopes)


def of_two_tenants(*scopes: Scope) -> Api:
    api = Api(access=lambda _: Holder(*scopes))
    for tenant in ("them", "us"):
        api.scene.submit(tenant=tenant)
    api.succeed()
    return api


def tenants(api: Api, query: str = "") -> list[str]:
    return [each["tenant"] for each in asked(api, query)["data"]]


def test_a_key_sees_its_own_tenants_usage() -> None:
    api = of_two_tenants(Scope.USAGE_READ)
    assert tenants(api) == tenants(api, "?tenant=us") == ["us"]
    problem = problem_of(api.client.get(f"{USAGE}?tenant=them"), 422)
    assert (problem["field"], "keys:admin" in problem["detail"]) == ("tenant", True)


def test_an_operators_key_sees_everybodys_usage() -> None:
    api = of_two_tenants(Scope.USAGE_READ, Scope.KEYS_ADMIN)
    assert tenants(api) == ["them", "us"]
    assert tenants(api, "?tenant=them") == ["them"]
    assert tenants(api, "?tenant=nobody") == []


def test_a_key_without_the_scope_sees_nothing() -> None:
    assert problem_of(of_two_tenants(Scope.KEYS_ADMIN).client.get(USAGE), 403)["code"] == "forbidden"


def test_a_range_that_holds_too_much_is_refused(used: Api) -> None:
    today = used.scene.clock.now() // 86_400_000
    bill = Bill()
    for number in range(MOST_ROWS):
        bill.add("default", f"m{number}", JobState.SUCCEEDED, None, 0.0)
    used.scene.true_store._usage |= {(today, use.tenant, use.model): use for use in bill.uses()}
    assert "in parts" in problem_of(used.client.get(USAGE), 422)["detail"]
    assert asked(used, f"?to={TODAY}")["data"] == [FIRST]
