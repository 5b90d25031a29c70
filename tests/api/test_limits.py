"""What tenants and keys may spend, and how that is said."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from werkzeug.test import TestResponse

from ktqueue.access import BELIEVED_S as KEYS_BELIEVED_S
from ktqueue.counted import COUNTED_S
from ktqueue.job import JsonObject
from ktqueue.quotas import BELIEVED_S
from ktqueue.store.base import JobQuery
from ktqueue.tenant import ALL_SCOPES, DEFAULT_TENANT, Limits, Tenant
from tests.api.test_keys import KEYS, Keyed
from tests.api.wiring import JOBS, NDJSON, Api, json_of, problem_of
from tests.support.scene import RETENTION_DAYS

TENANTS = "/api/v1/tenants"
JOB = {"model": "echo", "input": {"say": "hi"}}
CHAT = {"model": "chat", "input": {"prompt": "x"}, "params": {"max_tokens": 100}}
LATER = {"run_at": "2026-01-01T00:00:00Z"}
SIZE = len('{"say":"hi"}') + len("{}") + len("{}")
"""Of a job: its input, params and metadata."""
RESULT_SIZE = len('{"say":"hi"}')


class Limited(Keyed):
    """An API that asks for keys, a tenant with limits, and keys of its and of another's."""

    def limit(self, **limits: Any) -> None:
        self.api.registry.put_tenant(Tenant("a", limits=Limits(**limits)))
        self.api.scene.clock.sleep(BELIEVED_S)

    def refused(self, response: TestResponse) -> JsonObject:
        problem = problem_of(response, 429)
        assert problem["code"] == "limit_exceeded"
        assert 1 <= int(response.headers["Retry-After"]) <= 60
        return problem


@pytest.fixture
def limited() -> Limited:
    return Limited()


@dataclass
class Bounded:
    """A tenant, or a key, whose limits are set."""

    kind: str
    limited: Limited

    def __call__(self, **limits: Any) -> str:
        """A key for which these limits hold."""
        if self.kind == "key":
            return self.limited.key(limits=Limits(**limits))
        self.limited.limit(**limits)
        return self.limited.key()


@pytest.fixture(params=["tenant", "key"])
def bounded(request: pytest.FixtureRequest, limited: Limited) -> Bounded:
    return Bounded(request.param, limited)


def test_without_limits_nothing_is_said_of_them(limited: Limited) -> None:
    answered = limited.submit(limited.key())
    assert "RateLimit" not in answered.headers
    assert "RateLimit-Policy" not in answered.headers


def test_requests_of_a_tenant_are_limited_and_no_others(limited: Limited) -> None:
    limited.limit(requests_per_minute=3)
    mine, also_mine, other = limited.key(), limited.key(), limited.key(tenant="b")
    for left, key in ((2, mine), (1, also_mine), (0, mine)):
        answered = limited.ask("GET", JOBS, key)
        assert answered.status_code == 200
        assert answered.headers["RateLimit-Policy"] == '"requests";q=3;w=60'
        assert re.fullmatch(rf'"requests";r={left};t=\d+', answered.headers["RateLimit"])
    refused = limited.ask("GET", JOBS, also_mine)
    assert "3 requests in a minute" in limited.refused(refused)["detail"]
    assert refused.headers["RateLimit"].startswith('"requests";r=0;t=')
    assert limited.ask("GET", JOBS, other).status_code == 200
    assert limited.ask("GET", "/readyz", mine).status_code == 200


def test_requests_of_a_key_are_limited_beside_its_tenants(limited: Limited) -> None:
    limited.limit(requests_per_minute=10)
    tight, loose = limited.key(limits=Limits(1)), limited.key()
    answered = limited.ask("GET", JOBS, tight)
    assert answered.headers["RateLimit-Policy"] == '"requests";q=10;w=60, "key-requests";q=1;w=60'
    assert "this key" in limited.refused(limited.ask("GET", JOBS, tight))["detail"]
    assert limited.ask("GET", JOBS, loose).status_code == 200


def test_tokens_are_counted_when_a_job_is_submitted(limited: Limited) -> None:
    limited.limit(tokens_per_minute=250)
    key = limited.key()
    for _ in range(2):
        assert limited.ask("POST", JOBS, key, CHAT).status_code == 202
    refused = limited.ask("POST", JOBS, key, CHAT)
    assert "250 tokens in a minute" in limited.refused(refused)["detail"]
    assert refused.headers["RateLimit-Policy"] == '"tokens";q=250;w=60'
    assert limited.ask("GET", JOBS, key).status_code == 200
    assert limited.ask("POST", JOBS, limited.key(tenant="b"), CHAT).status_code == 202


@pytest.mark.parametrize("bulk", [False, True])
def test_no_tokens_are_spent_on_what_there_is_no_room_for(bulk: bool) -> None:
    api = Api(max_queued=2)
    api.registry.put_tenant(Tenant(DEFAULT_TENANT, limits=Limits(tokens_per_minute=500)))
    job = {"model": "echo", "input": {}, "params": {"delay_ms": 100}}
    if bulk:
        assert api.bulk(orjson.dumps(job, option=orjson.OPT_APPEND_NEWLINE) * 10).get_data().count(b"queue_full") == 8
    else:
        assert [api.submit(job).get_json().get("code") for _ in range(10)] == [None] * 2 + ["queue_full"] * 8
    api.succeed()
    api.scene.clock.sleep(1)
    assert api.submit(job).status_code == 202


def test_a_job_of_more_than_a_minutes_tokens_takes_a_whole_minute(limited: Limited) -> None:
    limited.limit(tokens_per_minute=50)
    key = limited.key()
    assert limited.ask("POST", JOBS, key, CHAT).status_code == 202
    limited.refused(limited.submit(key))


def test_tokens_of_a_key_are_limited_in_retries_and_bulk_submits_too(limited: Limited) -> None:
    key = limited.key(limits=Limits(tokens_per_minute=250))
    lines = b'{"model":"chat","input":{"prompt":"x"},"params":{"max_tokens":100}}\n' * 3
    headers = {"Authorization": f"Bearer {key}"}
    answered = limited.api.client.post(f"{JOBS}:bulk", data=lines, content_type=NDJSON, headers=headers)
    told = [line for line in answered.get_data(as_text=True).splitlines() if "limit_exceeded" in line]
    assert len(told) == 1
    failed = json_of(limited.submit(limited.key()), 202)["id"]
    limited.api.fail()
    tight = limited.key(limits=Limits(tokens_per_minute=1))
    assert limited.ask("POST", f"{JOBS}/{failed}/retry", tight).status_code == 202
    limited.refused(limited.ask("POST", f"{JOBS}/{failed}/retry", tight))


def test_an_accepted_request_is_answered_again_though_the_limit_is_reached(limited: Limited) -> None:
    limited.limit(tokens_per_minute=110)
    headers = {"Authorization": f"Bearer {limited.key()}", "Idempotency-Key": "k"}
    first = limited.api.client.post(JOBS, json=CHAT, headers=headers)
    again = limited.api.client.post(JOBS, json=CHAT, headers=headers)
    assert json_of(first, 202)["id"] == json_of(again, 202)["id"]
    assert "Idempotency-Replayed" in again.headers


@pytest.mark.parametrize(
    ("limits", "said"), [({"queued_jobs": 2}, "2 jobs that wait"), ({"queued_bytes": 40}, "40 bytes of jobs")]
)
def test_what_waits_is_bounded(limited: Limited, bounded: Bounded, limits: dict[str, int], said: str) -> None:
    key = bounded(**limits)
    assert limited.submit(key).status_code == 202
    later = limited.ask("POST", JOBS, key, JOB | LATER)
    assert later.status_code == 202
    assert f"this {bounded.kind} may have {said}" in limited.refused(limited.submit(key))["detail"]
    assert limited.submit(limited.key(tenant="b")).status_code == 202
    assert limited.submit(limited.key()).status_code == (429 if bounded.kind == "tenant" else 202)
    limited.api.succeed()
    limited.api.scene.clock.sleep(COUNTED_S)
    assert limited.submit(key).status_code == 202
    limited.refused(limited.submit(key))


def test_what_is_not_finished_is_bounded(limited: Limited, bounded: Bounded) -> None:
    key = bounded(unfinished_jobs=2)
    for _ in range(2):
        assert limited.submit(key).status_code == 202
    limited.api.scene.claim()
    limited.api.scene.clock.sleep(COUNTED_S)
    assert "2 jobs that are not finished" in limited.refused(limited.submit(key))["detail"]


def test_what_is_kept_is_bounded(limited: Limited, bounded: Bounded) -> None:
    key = bounded(stored_bytes=2 * SIZE + 1)
    ids = [json_of(limited.submit(key), 202)["id"] for _ in range(2)]
    refused = limited.submit(key)
    most, had = 2 * SIZE + 1, 2 * SIZE
    assert limited.refused(refused)["detail"] == (
        f"this {bounded.kind} may have {most} bytes of jobs that are kept (stored_bytes);"
        f" it has {had}, and this would add {SIZE}"
    )
    assert refused.headers["Retry-After"] == "60"
    assert limited.submit(limited.key(tenant="b")).status_code == 202
    limited.api.succeed()
    limited.api.scene.clock.sleep(COUNTED_S)
    jobs = json_of(limited.ask("GET", JOBS, key), 200)["data"]
    assert [job["result"] for job in jobs] == [{"say": "hi"}] * 2
    assert f"it has {had + 2 * RESULT_SIZE}," in limited.refused(limited.submit(key))["detail"]
    for job_id, then in zip(ids, (429, 202), strict=True):
        limited.ask("DELETE", f"{JOBS}/{job_id}", key)
        limited.api.scene.clock.sleep(COUNTED_S)
        assert limited.submit(key).status_code == then


def test_what_retention_deletes_makes_room(limited: Limited, bounded: Bounded) -> None:
    key = bounded(stored_bytes=SIZE)
    assert limited.submit(key).status_code == 202
    limited.api.succeed()
    limited.api.scene.clock.sleep(COUNTED_S)
    limited.refused(limited.submit(key))
    limited.api.scene.clock.sleep(RETENTION_DAYS * 86_400 + 1)
    limited.api.scene.sweep()
    assert limited.submit(key).status_code == 202


def test_of_a_bulk_submit_what_fits_is_kept(limited: Limited, bounded: Bounded) -> None:
    headers = {"Authorization": f"Bearer {bounded(stored_bytes=2 * SIZE)}"}
    lines = b'{"model":"echo","input":{"say":"hi"}}\n' * 3
    answered = limited.api.client.post(f"{JOBS}:bulk", data=lines, content_type=NDJSON, headers=headers)
    told = [orjson.loads(line) for line in answered.get_data().splitlines()]
    assert ["id" in line for line in told] == [True, True, False]
    assert told[2]["error"]["code"] == "limit_exceeded"
    assert len(limited.api.scene.store.search(JobQuery())) == 2


def test_a_replay_takes_nothing_more(limited: Limited, bounded: Bounded) -> None:
    headers = {"Authorization": f"Bearer {bounded(stored_bytes=SIZE)}", "Idempotency-Key": "k"}
    first, again = (limited.api.client.post(JOBS, json=JOB, headers=headers) for _ in range(2))
    assert json_of(first, 202)["id"] == json_of(again, 202)["id"]


def test_metadata_is_kept_too(limited: Limited, bounded: Bounded) -> None:
    key = bounded(stored_bytes=100)
    labelled = JOB | {"metadata": {"k": "v" * 100}}
    limited.refused(limited.ask("POST", JOBS, key, labelled))


def test_what_its_tenant_may_not_have_a_key_may_not_have_either(limited: Limited) -> None:
    limited.limit(queued_jobs=3)
    wide, narrow = limited.key(limits=Limits(queued_jobs=100)), limited.key(limits=Limits(queued_jobs=1))
    assert [limited.submit(key).status_code for key in (narrow, narrow, wide, wide, wide)] == [202, 429, 202, 202, 429]
    assert "this tenant" in limited.refused(limited.submit(narrow))["detail"]


def test_who_retries_a_job_has_it(limited: Limited) -> None:
    theirs, mine = limited.key(limits=Limits(queued_jobs=1)), limited.key(limits=Limits(queued_jobs=1))
    failed = json_of(limited.submit(theirs), 202)["id"]
    limited.api.fail()
    limited.api.scene.clock.sleep(COUNTED_S)
    assert limited.ask("POST", f"{JOBS}/{failed}/retry", mine).status_code == 202
    limited.refused(limited.submit(mine))
    assert limited.submit(theirs).status_code == 202


def test_a_key_that_is_rotated_has_what_it_had(limited: Limited) -> None:
    old, text = limited.made(limits=Limits(requests_per_minute=5, unfinished_jobs=2))
    assert limited.submit(text).status_code == 202
    made = json_of(limited.ask("POST", f"{KEYS}/{old.id}/rotate", limited.admin, {}), 201)
    again = json_of(limited.ask("POST", f"{KEYS}/{made['id']}/rotate", limited.admin, {}), 201)
    assert limited.submit(again["key"]).status_code == 202
    for key in (text, made["key"], again["key"]):
        assert "this key may have 2 jobs" in limited.refused(limited.submit(key))["detail"]
    assert "5 requests" in limited.refused(limited.submit(text))["detail"]
    limited.ask("POST", f"{KEYS}/{old.id}/revoke", limited.admin)
    told = json_of(limited.ask("GET", f"{KEYS}/{again['id']}", limited.admin), 200)
    assert (told["unfinished_jobs"], told["used"]["unfinished_jobs"]) == (2, 2)


def test_a_keys_limits_are_changed_and_what_it_has_is_told(limited: Limited) -> None:
    (key, text), (other, _) = limited.made(), limited.made()
    rotated = json_of(limited.ask("POST", f"{KEYS}/{key.id}/rotate", limited.admin, {}), 201)
    wanted = {
        "requests_per_minute": 10,
        "tokens_per_minute": 1_000,
        "queued_jobs": 1,
        "unfinished_jobs": 4,
        "queued_bytes": 50,
        "stored_bytes": 60,
        "running_jobs": 7,
    }
    assert limited.submit(text).status_code == 202
    told = json_of(limited.ask("PUT", f"{KEYS}/{key.id}/limits", limited.admin, wanted), 200)
    assert told | wanted == told
    assert told["used"] == {
        "queued_jobs": 1,
        "unfinished_jobs": 1,
        "queued_bytes": SIZE,
        "stored_bytes": SIZE,
        "running_jobs": 0,
    }
    limited.api.scene.clock.sleep(KEYS_BELIEVED_S)
    limited.refused(limited.submit(text))
    limited.refused(limited.submit(rotated["key"]))
    untouched = json_of(limited.ask("GET", f"{KEYS}/{other.id}", limited.admin), 200)
    assert {untouched[name] for name in wanted} == {None}
    json_of(limited.ask("PUT", f"{KEYS}/{rotated['id']}/limits", limited.admin, {}), 200)
    limited.api.scene.clock.sleep(KEYS_BELIEVED_S)
    assert limited.submit(text).status_code == 202


def test_only_operators_change_a_keys_limits(limited: Limited) -> None:
    key, text = limited.made(limits=Limits(queued_jobs=1))
    path = f"{KEYS}/{key.id}/limits"
    for by in (text, limited.key(tenant="b")):
        assert problem_of(limited.ask("PUT", path, by, {}), 403)["scope"] == "keys:admin"
    assert limited.ask("PUT", f"{KEYS}/key_{'0' * 32}/limits", limited.admin, {}).status_code == 404
    answered = limited.ask("PUT", path, limited.admin, {"queued_jobs": 0})
    assert problem_of(answered, 422)["errors"][0]["field"] == "queued_jobs"
    assert limited.api.keys.get(key.id) == key


def test_nothing_is_counted_for_who_has_no_limit(limited: Limited) -> None:
    limited.submit(limited.key(tenant="b", limits=Limits(requests_per_minute=5)))
    assert not {"tenant_census", "key_census"} & limited.api.scene.sql.calls.keys()
    limited.submit(limited.key(limits=Limits(queued_jobs=1)))
    assert "tenant_census" not in limited.api.scene.sql.calls


def test_what_a_tenant_has_is_told_beside_its_limits(limited: Limited) -> None:
    limited.limit(stored_bytes=1_000)
    for _ in range(3):
        limited.submit(limited.key())
    limited.api.scene.claim(1)
    limited.api.scene.clock.sleep(COUNTED_S)
    told = json_of(limited.ask("GET", f"{TENANTS}/a", limited.admin), 200)
    assert told["stored_bytes"] == 1_000
    assert told["used"] == {
        "queued_jobs": 2,
        "unfinished_jobs": 3,
        "queued_bytes": 2 * SIZE,
        "stored_bytes": 3 * SIZE,
        "running_jobs": 1,
    }


def test_limits_that_can_not_be_asked_refuse_nobody(limited: Limited) -> None:
    limited.limit(requests_per_minute=1, tokens_per_minute=1)
    key = limited.key()
    limited.api.scene.redis.go()
    answers = [limited.submit(key) for _ in range(3)]
    assert [answered.status_code for answered in answers] == [202] * 3
    assert all("RateLimit" not in answered.headers for answered in answers)


def test_a_change_acts_within_seconds(limited: Limited) -> None:
    key = limited.key()
    for most, status in ((1, 200), (1, 429), (2, 200), (2, 429)):
        wanted = {"requests_per_minute": most}
        json_of(limited.ask("PUT", f"{TENANTS}/a", limited.key(tenant="ops", scopes=ALL_SCOPES), wanted), 200)
        limited.api.scene.clock.sleep(BELIEVED_S)
        assert limited.ask("GET", JOBS, key).status_code == status


def test_tenants_are_set_and_seen(limited: Limited) -> None:
    wanted = {
        "weight": 2.5,
        "requests_per_minute": 1,
        "tokens_per_minute": 2,
        "queued_jobs": 3,
        "unfinished_jobs": 4,
        "queued_bytes": 5,
        "stored_bytes": 6,
        "running_jobs": 7,
    }
    counts = ("queued_jobs", "unfinished_jobs", "queued_bytes", "stored_bytes", "running_jobs")
    nothing = {"used": dict.fromkeys(counts, 0)}
    told = {"id": "b", "object": "tenant"} | wanted | nothing
    assert json_of(limited.ask("PUT", f"{TENANTS}/b", limited.admin, wanted), 200) == told
    assert json_of(limited.ask("GET", f"{TENANTS}/b", limited.admin), 200) == told
    assert json_of(limited.ask("GET", TENANTS, limited.admin), 200)["data"] == [told]
    unlimited = dict.fromkeys(wanted) | {"id": "c", "object": "tenant", "weight": 1.0} | nothing
    assert json_of(limited.ask("GET", f"{TENANTS}/c", limited.admin), 200) == unlimited
    assert json_of(limited.ask("PUT", f"{TENANTS}/b", limited.admin, {}), 200) == unlimited | {"id": "b"}
    assert limited.ask("GET", f"{TENANTS}/-b", limited.admin).status_code == 404


@pytest.mark.parametrize(
    "body", [{"weight": 0}, {"weight": 1e-4}, {"weight": -1}, {"queued_jobs": 0}, {"nope": 1}, {"weight": None}]
)
def test_wrong_limits_are_refused(limited: Limited, body: JsonObject) -> None:
    answered = limited.ask("PUT", f"{TENANTS}/b", limited.admin, body)
    assert problem_of(answered, 422)["errors"][0]["field"] == next(iter(body))


def test_a_key_of_another_tenant_has_no_part_in_this_ones_limits(limited: Limited) -> None:
    limited.limit(requests_per_minute=1)
    text = limited.key(tenant="b")
    assert [limited.ask("GET", JOBS, text).status_code for _ in range(3)] == [200] * 3
