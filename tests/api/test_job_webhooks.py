"""`webhook` of a job: what is taken, what is refused, and what a job then tells of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ktqueue.job import JsonObject
from ktqueue.outbox.base import DeliveryQuery
from ktqueue.webhook_addresses import LONGEST_URL
from tests.api.wiring import ALLOWED, HOOK, JOBS, Api, json_of, problem_of

ECHO: JsonObject = {"model": "echo", "input": {"say": "hi"}}
ENDS = ["job.succeeded", "job.failed", "job.cancelled", "job.expired"]
ALL = ["job.queued", "job.started", "job.progress", *ENDS]


def told(api: Api) -> list[str]:
    return [each.type.title for each in reversed(api.scene.true_outbox.deliveries(DeliveryQuery()))]


def test_a_job_tells_its_webhook_of_its_end_if_nothing_else_was_asked_for(api: Api) -> None:
    job = api.accepted(ECHO | {"webhook": {"url": HOOK}})

    assert job["webhook"] == api.job(job["id"])["webhook"] == {"url": HOOK, "events": ENDS}
    assert job["links"]["deliveries"] == f"{JOBS}/{job['id']}/deliveries"
    api.succeed()
    assert told(api) == ["job.succeeded"]


def test_a_job_tells_its_webhook_what_was_asked_for(api: Api) -> None:
    events = ["job.succeeded", "job.queued", "job.queued"]
    job = api.accepted(ECHO | {"webhook": {"url": "https://example.com:8443/a?b=c", "events": events}})

    assert job["webhook"] == {"url": "https://example.com:8443/a?b=c", "events": ["job.queued", "job.succeeded"]}
    api.succeed()
    assert told(api) == ["job.queued", "job.succeeded"]


def test_a_retry_tells_the_same_webhook(api: Api) -> None:
    webhook = {"url": HOOK, "events": ["job.failed"]}
    failed = api.accepted(ECHO | {"webhook": webhook})
    api.fail()

    again = json_of(api.client.post(f"{JOBS}/{failed['id']}/retry"), 202)

    assert again["webhook"] == webhook
    api.fail()
    assert told(api) == ["job.failed", "job.failed"]


def test_a_key_is_for_one_webhook_only(api: Api) -> None:
    first = ECHO | {"webhook": {"url": HOOK, "events": ["job.failed"]}}
    job = json_of(api.submit(first, Idempotency_Key="k"), 202)

    assert json_of(api.submit(first, Idempotency_Key="k"), 202)["id"] == job["id"]
    for other in (ECHO, ECHO | {"webhook": {"url": HOOK}}, ECHO | {"webhook": {"url": f"{HOOK}2"}}):
        assert problem_of(api.submit(other, Idempotency_Key="k"), 422)["code"] == "idempotency_mismatch"


WRONG = [
    ("x", "webhook", "must be a JSON object"),
    (None, "webhook", "must be a JSON object"),
    ([HOOK], "webhook", "must be a JSON object"),
    ({}, "webhook.url", "is required"),
    ({"url": None}, "webhook.url", "must be a string"),
    ({"url": ["a"]}, "webhook.url", "must be a string"),
    ({"url": ""}, "webhook.url", "http:// or https://"),
    ({"url": "ftp://example.com/"}, "webhook.url", "http:// or https://"),
    ({"url": "http://localhost/"}, "webhook.url", "public host"),
    ({"url": "http://127.0.0.1/"}, "webhook.url", "public host"),
    ({"url": "http://169.254.169.254/latest"}, "webhook.url", "public host"),
    ({"url": "http://[::ffff:10.0.0.1]/"}, "webhook.url", "public host"),
    ({"url": "https://example.com:6379/"}, "webhook.url", "80, 443, 8080, 8443"),
    ({"url": "https://user:password@example.com/"}, "webhook.url", "no user name"),
    ({"url": f"https://{ALLOWED}/#part"}, "webhook.url", "no fragment"),
    ({"url": HOOK, "events": []}, "webhook.events", ", ".join(ALL)),
    ({"url": HOOK, "events": None}, "webhook.events", ", ".join(ALL)),
    ({"url": HOOK, "events": "job.failed"}, "webhook.events", ", ".join(ALL)),
    ({"url": HOOK, "events": [1]}, "webhook.events", ", ".join(ALL)),
    ({"url": HOOK, "events": ["job.failed", "job.done"]}, "webhook.events", "'job.done'; there are: job.queued"),
    ({"url": HOOK, "events": ["webhook.test"]}, "webhook.events", ", ".join(ALL)),
    ({"url": HOOK, "secret": "x"}, "webhook.secret", "known are: url, events"),
]


@pytest.mark.parametrize(("webhook", "field", "allowed"), WRONG)
def test_a_wrong_webhook_is_refused_and_says_what_is_allowed(api: Api, webhook: Any, field: str, allowed: str) -> None:
    body = ECHO | {"webhook": webhook}

    problem = problem_of(api.submit(body), 422)
    assert (problem["code"], problem["field"]) == ("invalid_request", field)
    assert allowed in problem["errors"][0]["message"]
    assert problem["detail"] == f"{field}: {problem['errors'][0]['message']}"

    good, bad = api.bulk(json.dumps(ECHO).encode() + b"\n" + json.dumps(body).encode()).get_data().splitlines()
    assert "id" in json.loads(good)
    error = json.loads(bad)["error"]
    assert (error["code"], error["field"]) == ("invalid_request", field)
    assert allowed in error["message"]


def test_a_flood_is_told_in_few_words(api: Api) -> None:
    long = f"{HOOK}?{'x' * LONGEST_URL}"
    flood = {f"field-{number}": number for number in range(1000)}
    for webhook in ({"url": long}, {"url": HOOK} | flood):
        answer = api.submit(ECHO | {"webhook": webhook})
        assert problem_of(answer, 422)["code"] == "too_large"
        assert len(answer.data) < 500
    answer = api.submit(ECHO | {"webhook": {"url": HOOK, "events": ["x" * 10_000] * 100}})
    assert problem_of(answer, 422)["field"] == "webhook.events"
    assert len(answer.data) < 1000


def test_a_bulk_submit_takes_webhooks(api: Api) -> None:
    lines = [json.dumps(ECHO | {"webhook": {"url": f"{HOOK}/{number}"}}).encode() for number in range(3)]

    ids = [json.loads(line)["id"] for line in api.bulk(b"\n".join(lines)).get_data().splitlines()]

    assert [api.job(job_id)["webhook"]["url"] for job_id in ids] == [f"{HOOK}/{number}" for number in range(3)]
