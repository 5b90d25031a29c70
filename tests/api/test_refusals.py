"""Whatever a client sends that is wrong is refused with a problem that says where and what is allowed; never a 500."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from flask import Response

from ktqueue.job import JsonObject
from tests.api.wiring import DELIVERIES, ENDPOINTS, HOOK, JOBS, Api, json_of, problem_of

ECHO: JsonObject = {"model": "echo", "input": {}}
CHAT: JsonObject = {"model": "chat", "input": {"prompt": "Once"}}
EMBED: JsonObject = {"model": "encoder", "input": {"text": "one"}}


@pytest.fixture(autouse=True)
def nothing_is_stored_by_a_refusal(api: Api) -> Iterator[None]:
    yield
    assert api.scene.true_store.census() == []


def messages(*given: Any) -> JsonObject:
    return {"model": "chat", "input": {"messages": list(given)}}


def test_an_unknown_model_is_not_found_and_the_others_are_named(api: Api) -> None:
    problem = problem_of(api.submit(ECHO | {"model": "gpt-5"}), 404)

    assert (problem["code"], problem["field"]) == ("unknown_model", "model")
    assert problem["allowed"] == ["chat", "echo", "encoder"]
    assert "chat, echo, encoder" in problem["detail"]


@pytest.mark.parametrize("task", ["generate", "translate"])
def test_a_task_that_the_model_cannot_do(api: Api, task: str) -> None:
    problem = problem_of(api.submit(EMBED | {"task": task}), 422)

    assert (problem["code"], problem["field"]) == ("unsupported_task", "task")
    assert "embed, classify, rerank" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "field", "allowed"),
    [
        # The envelope.
        ([], "", "must be a JSON object"),
        ("job", "", "must be a JSON object"),
        (None, "", "must be a JSON object"),
        ({"input": {}}, "model", "is required"),
        ({"model": "echo"}, "input", "is required"),
        (ECHO | {"model": 1}, "model", "must be a string"),
        (ECHO | {"model": ""}, "model", "at least 1 character"),
        (ECHO | {"model": None}, "model", "must be a string"),
        (ECHO | {"input": []}, "input", "must be a JSON object"),
        (ECHO | {"input": None}, "input", "must be a JSON object"),
        (ECHO | {"params": None}, "params", "must be a JSON object"),
        (ECHO | {"task": 1}, "task", "must be a string"),
        (ECHO | {"webhooks": "x"}, "webhooks", "known are: model, task, input"),
        (ECHO | {"priority": 10}, "priority", "less than or equal to 9"),
        (ECHO | {"priority": -1}, "priority", "greater than or equal to 0"),
        (ECHO | {"priority": 5.0}, "priority", "must be an integer"),
        (ECHO | {"priority": True}, "priority", "must be an integer"),
        (ECHO | {"priority": "5"}, "priority", "must be an integer"),
        (ECHO | {"priority": None}, "priority", "must be an integer"),
        (ECHO | {"priority": 2**64}, "priority", "must be an integer"),
        (ECHO | {"max_attempts": 0}, "max_attempts", "greater than or equal to 1"),
        (ECHO | {"max_attempts": 11}, "max_attempts", "less than or equal to 10"),
        (ECHO | {"metadata": []}, "metadata", "must be a JSON object"),
        (ECHO | {"metadata": {"a": 1}}, "metadata.a", "must be a string"),
        (ECHO | {"deadline_seconds": 0}, "deadline_seconds", "greater than 0"),
        (ECHO | {"deadline_seconds": 2_592_001}, "deadline_seconds", "less than or equal to 2592000"),
        (ECHO | {"deadline_seconds": "1"}, "deadline_seconds", "must be a number"),
        (ECHO | {"run_at": 1_750_000_000}, "run_at", "RFC 3339"),
        (ECHO | {"run_at": "tomorrow"}, "run_at", "RFC 3339"),
        (ECHO | {"run_at": "2030-01-01T00:00:00"}, "run_at", "offset"),
        (ECHO | {"run_at": "2030-02-30T00:00:00Z"}, "run_at", "day is out of range"),
        (ECHO | {"run_at": "9999-12-31T23:59:59Z"}, "run_at", "at most a year ahead"),
        (ECHO | {"run_at": "9999-12-31T23:59:59-23:59"}, "run_at", "in the years 1 to 9999 in UTC"),
        # generate.
        (CHAT | {"input": {}}, "input", "exactly one of the fields 'prompt' or 'messages'"),
        (
            CHAT | {"input": {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}},
            "input",
            "exactly one of the fields",
        ),
        (CHAT | {"input": {"prompt": ""}}, "input.prompt", "at least 1 character"),
        (CHAT | {"input": {"prompt": ["x"]}}, "input.prompt", "must be a string"),
        (CHAT | {"input": {"text": "x"}}, "input.text", "known are: prompt, messages"),
        (messages(), "input.messages", "at least 1 item"),
        (messages("hi"), "input.messages.0", "must be a JSON object"),
        (messages({"content": "x"}), "input.messages.0.role", "is required"),
        (messages({"role": "user"}), "input.messages.0.content", "is required"),
        (messages({"role": "user", "content": ""}), "input.messages.0.content", "at least 1 character"),
        (messages({"role": "bot", "content": "x"}), "input.messages.0.role", "'system', 'user', 'assistant' or 'tool'"),
        (messages({"role": "user", "content": "x", "name": "y"}), "input.messages.0.name", "known are: role, content"),
        (CHAT | {"params": {"max_tokens": 0}}, "params.max_tokens", "greater than or equal to 1"),
        (CHAT | {"params": {"max_tokens": 32_769}}, "params.max_tokens", "less than or equal to 32768"),
        (CHAT | {"params": {"temperature": 2.1}}, "params.temperature", "less than or equal to 2"),
        (CHAT | {"params": {"temperature": None}}, "params.temperature", "must be a number"),
        (CHAT | {"params": {"top_p": 0}}, "params.top_p", "greater than 0"),
        (CHAT | {"params": {"top_k": -1}}, "params.top_k", "greater than or equal to 0"),
        (CHAT | {"params": {"seed": 1.5}}, "params.seed", "must be an integer"),
        (CHAT | {"params": {"seed": 2**63}}, "params.seed", "less than or equal to"),
        (CHAT | {"params": {"stop": []}}, "params.stop", "1-4"),
        (CHAT | {"params": {"stop": ["a"] * 5}}, "params.stop", "1-4"),
        (CHAT | {"params": {"stop": "a" * 101}}, "params.stop", "1-100 characters"),
        (CHAT | {"params": {"repetition_penalty": 0}}, "params.repetition_penalty", "greater than or equal to 0.1"),
        (CHAT | {"params": {"min_tokens": -1}}, "params.min_tokens", "greater than or equal to 0"),
        (CHAT | {"params": {"min_p": 1.5}}, "params.min_p", "less than or equal to 1"),
        (CHAT | {"params": {"presence_penalty": 2.5}}, "params.presence_penalty", "less than or equal to 2"),
        (CHAT | {"params": {"frequency_penalty": -3}}, "params.frequency_penalty", "greater than or equal to -2"),
        (CHAT | {"params": {"stop_token_ids": []}}, "params.stop_token_ids", "at least 1 item"),
        (CHAT | {"params": {"stop_token_ids": [1, -1]}}, "params.stop_token_ids.1", "greater than or equal to 0"),
        (CHAT | {"params": {"ignore_eos": 1}}, "params.ignore_eos", "must be true or false"),
        (CHAT | {"params": {"logit_bias": [1]}}, "params.logit_bias", "300 token ids"),
        (CHAT | {"params": {"logit_bias": {"the": 1}}}, "params.logit_bias", "300 token ids"),
        (CHAT | {"params": {"logit_bias": {"07": 1}}}, "params.logit_bias", "300 token ids"),
        (CHAT | {"params": {"logit_bias": {"7": 101}}}, "params.logit_bias", "-100 to 100"),
        (CHAT | {"params": {"logit_bias": {"7": True}}}, "params.logit_bias", "-100 to 100"),
        (CHAT | {"params": {"logit_bias": {"7": "1"}}}, "params.logit_bias", "-100 to 100"),
        (CHAT | {"params": {"logit_bias": {str(i): 1 for i in range(301)}}}, "params.logit_bias", "300 token ids"),
        (CHAT | {"params": {"logprobs": 1}}, "params.logprobs", "must be true or false"),
        (CHAT | {"params": {"top_logprobs": 21}}, "params.top_logprobs", "less than or equal to 20"),
        (CHAT | {"params": {"n": 16, "max_tokens": 2049, "top_logprobs": 20}}, "params", "16 * 2049 * 21 is 688464"),
        (CHAT | {"params": {"n": 0}}, "params.n", "greater than or equal to 1"),
        (CHAT | {"params": {"n": 17}}, "params.n", "less than or equal to 16"),
        (CHAT | {"params": {"best_of": 1}}, "params.best_of", "known are: max_tokens"),
        # embed, classify, rerank, echo.
        (EMBED | {"input": {"texts": []}}, "input.texts", "at least 1 item"),
        (EMBED | {"input": {"texts": ["a", ""]}}, "input.texts.1", "at least 1 character"),
        (EMBED | {"input": {"texts": ["a"], "text": "a"}}, "input", "exactly one of the fields 'text' or 'texts'"),
        (EMBED | {"params": {"normalize": 1}}, "params.normalize", "must be true or false"),
        (EMBED | {"params": {"dimensions": 0}}, "params.dimensions", "greater than or equal to 1"),
        (EMBED | {"task": "classify", "params": {"top_k": 0}}, "params.top_k", "greater than or equal to 1"),
        (EMBED | {"task": "rerank"}, "input.query", "is required"),
        (EMBED | {"task": "rerank", "input": {"query": "q", "documents": []}}, "input.documents", "at least 1 item"),
        (ECHO | {"params": {"delay_ms": 600_001}}, "params.delay_ms", "less than or equal to 600000"),
        (ECHO | {"params": {"fail": "often"}}, "params.fail", "'permanent', 'retryable', 'crash', 'raise'"),
    ],
)
def test_a_broken_rule_names_its_field_and_what_is_allowed(api: Api, body: Any, field: str, allowed: str) -> None:
    problem = problem_of(api.raw(json.dumps(body).encode()), 422)

    assert problem["code"] == "invalid_request"
    assert problem.get("field", "") == field
    named = {error["field"]: error["message"] for error in problem["errors"]}
    assert allowed in named[field]
    assert problem["detail"].startswith(f"{field}: " if field else "must")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (EMBED | {"input": {"texts": ["a"] * 2049}}, "input.texts"),
        (ECHO | {"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
        (ECHO | {"metadata": {"a": "x" * 513}}, "metadata.a"),
        (ECHO | {"model": "x" * 64}, "model"),
    ],
)
def test_what_is_too_large_is_said_to_be(api: Api, body: JsonObject, field: str) -> None:
    problem = problem_of(api.submit(body), 422)

    assert (problem["code"], problem["field"]) == ("too_large", field)


def test_a_key_of_metadata_that_is_too_long(api: Api) -> None:
    problem = problem_of(api.submit(ECHO | {"metadata": {"k" * 65: "v"}}), 422)

    assert problem["code"] == "too_large"
    assert problem["field"].startswith("metadata.kkk")


def test_everything_that_is_wrong_is_told_at_once_up_to_a_point(api: Api) -> None:
    body = CHAT | {"input": {"prompt": 1}, "params": {"top_p": 2, "seed": "x"}}
    problem = problem_of(api.submit(body), 422)
    assert [error["field"] for error in problem["errors"]] == ["input.prompt", "params.top_p", "params.seed"]

    many = problem_of(api.submit(EMBED | {"input": {"texts": [1] * 2000}}), 422)
    assert len(many["errors"]) == 20


def test_a_flood_of_unknown_fields_is_told_in_few_words(api: Api) -> None:
    flood = {f"field-{number}": number for number in range(1000)}

    for body, field in ((ECHO | flood, "field-"), (CHAT | {"params": flood}, "params.field-")):
        problem = problem_of(api.submit(body), 422)
        assert problem["code"] == "invalid_request"
        assert len(problem["errors"]) == 20
        assert all(error["field"].startswith(field) for error in problem["errors"])
        assert "is not a known field; known are: m" in problem["detail"]


def test_a_path_through_keys_of_any_length_stays_short(api: Api) -> None:
    long = "k" * 10_000

    for body in (ECHO | {long: 1}, {"model": "echo", "input": {long: "\0"}}, ECHO | {"metadata": {long: "v"}}):
        answer = api.submit(body)
        assert "k" * 64 + "…" in problem_of(answer, 422)["field"]
        assert len(answer.data) < 2000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model":"echo","input":{}} x',
        b'{"model":"echo","input":{"x":NaN}}',
        b'{"model":"echo","input":{"x":Infinity}}',
        b'{"model":"echo","input":{"x":1e999}}',
        b'{"model":"echo","input":{"x":"\\ud800"}}',
        b'{"model":"echo","input":{"x":"\xff"}}',
        b'{"model":"echo","input":{"x":"\x00"}}',
        b'\xef\xbb\xbf{"model":"echo","input":{}}',
        b"model=echo",
        b"[" * 100_000,
        b'{"model":"echo","input":{"x":' + b"[" * 500 + b"]" * 500 + b"}}",
        b'{"model":"echo","input":{"x":' + b"[" * 63 + b"]" * 63 + b"}}",
        b'{"model":"echo","input":' + b'{"x":' * 64 + b"1" + b"}" * 64 + b"}",
    ],
)
def test_what_is_not_json_or_nested_too_deeply_is_malformed(api: Api, body: bytes) -> None:
    assert problem_of(api.raw(body), 400)["code"] == "malformed"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"model":"echo","input":{"a":{"b":["","x\\u0000y"]}}}', "input.a.b.1"),
        (b'{"model":"echo","input":{"a":{"b\\u0000":1}}}', "input.a"),
        (b'{"model":"\\u0000","input":{}}', "model"),
        (b'{"model":"echo","input":{},"metadata":{"a":"\\u0000"}}', "metadata.a"),
        (b'"\\u0000"', ""),
    ],
)
def test_nul_is_refused_wherever_it_hides(api: Api, body: bytes, field: str) -> None:
    problem = problem_of(api.raw(body), 422)

    assert problem.get("field", "") == field
    assert "NUL" in problem["detail"]


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "json", "é"])
def test_any_other_content_type_is_unsupported(api: Api, content_type: str | None) -> None:
    problem = problem_of(api.raw(b'{"model":"echo","input":{}}', content_type=content_type), 415)

    assert (problem["code"], problem["field"]) == ("unsupported_media_type", "Content-Type")
    assert "application/json" in problem["detail"]


def test_a_body_that_is_too_large_whether_or_not_it_says_so() -> None:
    api = Api(max_body_bytes=100)
    assert api.raw(b'{"model":"echo","input":{}}'.ljust(100)).status_code == 202
    body = b'{"model":"echo","input":{}}'.ljust(101)

    problem = problem_of(api.raw(body), 413)
    assert problem["code"] == "too_large"
    assert "100 bytes" in problem["detail"]
    chunked = api.client.post(
        JOBS,
        input_stream=BytesIO(body),
        content_type="application/json",
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert problem_of(chunked, 413)["code"] == "too_large"


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é", "a\tb"])
def test_a_bad_idempotency_key(api: Api, key: str) -> None:
    problem = problem_of(api.submit(ECHO, Idempotency_Key=key), 400)

    assert (problem["code"], problem["field"]) == ("malformed", "Idempotency-Key")
    assert "1-255 visible ASCII" in problem["detail"]


@pytest.mark.parametrize("path", ["/x", "/api", "/api/v1/job", f"{JOBS}/", "//api/v1/jobs", f"{JOBS}/a/b", "/docs/%00"])
def test_a_path_that_is_not_there(api: Api, path: str) -> None:
    problem_of(api.client.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", JOBS, {"GET", "HEAD", "OPTIONS", "POST"}),
        ("PATCH", f"{JOBS}/job_{'0' * 32}", {"GET", "HEAD", "OPTIONS", "DELETE"}),
        ("GET", f"{JOBS}/job_{'0' * 32}/cancel", {"POST", "OPTIONS"}),
        ("POST", "/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", f"{ENDPOINTS}/whe_{'0' * 32}", {"GET", "HEAD", "OPTIONS", "PATCH", "DELETE"}),
        ("GET", f"{ENDPOINTS}/whe_{'0' * 32}/rotate", {"POST", "OPTIONS"}),
        ("DELETE", f"{DELIVERIES}/dlv_1", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_method_that_is_not_there_and_those_that_are(api: Api, method: str, path: str, allowed: set[str]) -> None:
    answer = api.client.open(path, method=method)

    assert problem_of(answer, 405)["code"] == "method_not_allowed"
    assert set(answer.headers["Allow"].split(", ")) == allowed


def test_an_unknown_query_parameter_is_refused_everywhere(api: Api) -> None:
    for method, path in [
        ("POST", JOBS),
        ("GET", JOBS),
        ("POST", f"{JOBS}:bulk"),
        ("GET", f"{JOBS}/job_{'0' * 32}"),
        ("DELETE", f"{JOBS}/job_{'0' * 32}"),
        ("POST", f"{JOBS}/job_{'0' * 32}/cancel"),
        ("POST", f"{JOBS}/job_{'0' * 32}/retry"),
        ("GET", f"{JOBS}/job_{'0' * 32}/events"),
        ("GET", f"{JOBS}/job_{'0' * 32}/deliveries"),
        ("POST", ENDPOINTS),
        ("GET", ENDPOINTS),
        ("GET", f"{ENDPOINTS}/whe_{'0' * 32}"),
        ("PATCH", f"{ENDPOINTS}/whe_{'0' * 32}"),
        ("DELETE", f"{ENDPOINTS}/whe_{'0' * 32}"),
        ("POST", f"{ENDPOINTS}/whe_{'0' * 32}/rotate"),
        ("POST", f"{ENDPOINTS}/whe_{'0' * 32}/test"),
        ("POST", f"{ENDPOINTS}/whe_{'0' * 32}/replay"),
        ("GET", DELIVERIES),
        ("GET", f"{DELIVERIES}/dlv_1"),
        ("POST", f"{DELIVERIES}/dlv_1/redeliver"),
        ("GET", "/api/v1/webhook-secret"),
        ("GET", "/.well-known/webhook-keys"),
        ("GET", "/api/v1/models"),
        ("GET", "/api/v1/lanes"),
    ]:
        problem = problem_of(api.client.open(path, method=method, query_string={"nope": "1"}), 422)
        assert problem["field"] == "nope", path
        assert "is not a known parameter" in problem["detail"]


def test_a_full_lane_says_when_to_come_back() -> None:
    api = Api(max_queued=2)
    for _ in range(2):
        api.accepted()

    answer = api.submit(ECHO)

    problem = problem_of(answer, 429)
    assert problem["code"] == "queue_full"
    assert answer.headers["Retry-After"] == "60"


def test_a_database_that_is_away_is_said_to_be(api: Api) -> None:
    api.scene.sql.go()
    job, endpoint = f"{JOBS}/job_{'0' * 32}", f"{ENDPOINTS}/whe_{'0' * 32}"

    for answer in (
        api.submit(ECHO),
        api.submit(ECHO, Idempotency_Key="k"),
        api.client.get(JOBS),
        api.client.get(job),
        api.client.get(f"{job}?wait=60"),
        api.client.get(f"{job}/events"),
        api.client.post(f"{job}/cancel"),
        api.client.post(f"{job}/retry"),
        api.client.delete(job),
        api.client.get("/api/v1/lanes"),
        api.client.get(f"{job}/deliveries"),
        api.client.post(ENDPOINTS, json={"url": HOOK}),
        api.client.get(ENDPOINTS),
        api.client.get(endpoint),
        api.client.patch(endpoint, json={"enabled": False}),
        api.client.delete(endpoint),
        api.client.post(f"{endpoint}/rotate"),
        api.client.post(f"{endpoint}/test"),
        api.client.post(f"{endpoint}/replay", json={"since": "2025-06-15T15:06:40Z"}),
        api.client.get(DELIVERIES),
        api.client.get(f"{DELIVERIES}/dlv_1"),
        api.client.post(f"{DELIVERIES}/dlv_1/redeliver"),
    ):
        assert problem_of(answer, 503)["code"] == "unavailable"
        assert answer.headers["Retry-After"] == "2"


def test_without_redis_jobs_are_still_accepted(api: Api) -> None:
    api.scene.redis.go()

    job = json_of(api.submit(ECHO), 202)

    assert json_of(api.client.get(f"{JOBS}/{job['id']}"), 200)["position"] is None
    assert problem_of(api.client.get("/api/v1/lanes"), 503)["code"] == "unavailable"
    api.scene.redis.come_back()
    assert json_of(api.client.post(f"{JOBS}/{job['id']}/cancel"), 200)["state"] == "cancelled"


def test_a_fault_of_ours_is_a_problem_without_a_trace_and_is_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    class Fault(Exception):
        pass

    def broken() -> Response:
        raise Fault("the secret inside")

    api.app.view_functions["models"] = broken
    with caplog.at_level(logging.ERROR):
        answer = api.client.get("/api/v1/models")

    assert problem_of(answer, 500)["code"] == "internal_error"
    assert "secret" not in answer.get_data(as_text=True)
    assert "the secret inside" in caplog.text


PAUSE = "/api/v1/lanes/echo/pause"


@pytest.mark.parametrize("origin", ["http://evil.example", "https://localhost:8000", "http://127.0.0.1", "null", ""])
def test_a_page_of_another_site_changes_nothing(api: Api, origin: str) -> None:
    problem = problem_of(api.client.post(PAUSE, headers={"Origin": origin}), 403)

    assert problem["code"] == "foreign_page"
    assert json_of(api.client.get("/api/v1/lanes"), 200)["data"][0]["mode"] == "open"


@pytest.mark.parametrize(
    "host", ["evil.example", "EVIL.example:8000", "localhost.evil.example.", "127.0.0.1.evil.example"]
)
def test_a_name_of_another_site_is_not_answered(api: Api, host: str) -> None:
    for answer in (
        api.client.get("/api/v1/jobs", headers={"Host": host}),
        api.client.post(PAUSE, headers={"Host": host, "Origin": f"http://{host}"}),
    ):
        assert problem_of(answer, 403)["code"] == "unknown_host"
    assert json_of(api.client.get("/api/v1/lanes"), 200)["data"][0]["mode"] == "open"


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "api", "10.1.2.3", "gpu.internal", "q.localhost.", ""]
)
def test_a_name_that_can_be_nobody_elses_is(api: Api, host: str) -> None:
    json_of(api.client.get("/api/v1/jobs", headers={"Host": host}), 200)


def test_more_names_can_be_given() -> None:
    api = Api(hosts="queue.example.com, Other.Example.")
    for host in ("queue.example.com", "Queue.example.com.:443", "other.example"):
        json_of(api.client.get("/api/v1/jobs", headers={"Host": host}), 200)
    problem_of(api.client.get("/api/v1/jobs", headers={"Host": "x.other.example"}), 403)


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://localhost"}, {"Origin": "https://LOCALHOST"}])
def test_whoever_is_no_page_of_another_site_may(api: Api, headers: dict[str, str]) -> None:
    assert json_of(api.client.post(PAUSE, headers=headers), 200)["mode"] == "paused"
    json_of(api.client.get("/api/v1/lanes", headers={"Origin": "http://evil.example"}), 200)
