"""Requests generated from the OpenAPI document, good and bad: no server error, and every answer is one it tells of."""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks

from api.operation import Operation
from api.operations import OPERATIONS
from ktqueue.room import Room
from ktqueue.webhook import Answer
from tests.api.wiring import ENDPOINTS, HOOK, JOBS, NDJSON, TAKEN, Api

EXAMPLES = 20
MODES = {"good": GenerationMode.POSITIVE, "bad": GenerationMode.NEGATIVE}


CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@schemathesis.serializer(NDJSON)
def one_line(_context: Any, value: Any) -> bytes:
    """A bulk submit of one job, or of what is none."""
    return json.dumps(value, default=str).encode()


class Contract:
    """The document, the application, and jobs to ask it about."""

    def __init__(self) -> None:
        self.api = Api()
        self.api.scene.execution.tell_room("chat", Room(8, 4_096, 16, "reference"))
        self.schema = schemathesis.openapi.from_wsgi("/openapi.json", self.api.app)

    def some_job(self, which: str) -> str:
        """The id of a job that has ended, so that nothing waits for its end."""
        if which == "nobody":
            return f"job_{'0' * 32}"
        job_id: str = self.api.accepted()["id"]
        if which == "cancelled":
            self.api.client.post(f"{JOBS}/{job_id}/cancel")
        elif which == "failed":
            self.api.fail()
        else:
            self.api.succeed({"text": "é", "finish_reason": "stop"})
        return job_id

    def some_endpoint(self, which: str) -> str:
        """The id of a webhook endpoint; of one that is disabled, for a job that failed."""
        if which == "nobody":
            return f"whe_{'0' * 32}"
        endpoint_id: str = self.api.endpoint(model="echo")["id"]
        if which == "failed":
            self.api.client.patch(f"{ENDPOINTS}/{endpoint_id}", json={"enabled": False})
        return endpoint_id

    def some_delivery(self, which: str) -> str:
        """The id of a delivery, of which an attempt was made or will be."""
        if which == "nobody":
            return "dlv_999999999"
        endpoint_id = self.some_endpoint("")
        delivery_id: str = self.api.client.post(f"{ENDPOINTS}/{endpoint_id}/test").get_json()["id"]
        self.api.deliver(Answer(None, "timeout", 15_000) if which == "failed" else TAKEN)
        self.api.client.patch(f"{ENDPOINTS}/{endpoint_id}", json={"enabled": which != "cancelled"})
        return delivery_id

    def point(self, case: Any, which: str) -> None:
        """Let a request be about something that is there, and have webhooks go where they may."""
        some = {"job_id": self.some_job, "endpoint_id": self.some_endpoint, "delivery_id": self.some_delivery}
        for name in set(case.path_parameters or {}) & some.keys():
            case.path_parameters[name] = some[name](which)
        if "model" in (case.path_parameters or {}):
            # Its jobs never run here, so it does not matter what is ordered of it.
            case.path_parameters["model"] = "encoder"
        if isinstance(case.body, dict):
            asks = [case.body, case.body.get("webhook")]
            for ask in asks:
                if isinstance(ask, dict) and isinstance(ask.get("url"), str):
                    ask["url"] = HOOK


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract()


@pytest.mark.parametrize(
    ("operation", "mode"),
    [
        pytest.param(operation, mode, id=f"{operation.id}-{name}")
        for operation in OPERATIONS
        for name, mode in MODES.items()
        # Where nothing can be given, nothing bad can be.
        if name == "good" or operation.parameters or operation.body
    ],
)
def test_the_document_is_kept(contract: Contract, operation: Operation, mode: GenerationMode) -> None:
    generated = contract.schema[operation.path][operation.method.upper()].as_strategy(generation_mode=mode)

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(generated, st.sampled_from(["nobody", "cancelled", "failed", "succeeded", "as generated"]))
    def ask(case: Any, which: str) -> None:
        if which != "as generated":
            contract.point(case, which)
        response = case.call()
        case.validate_response(response, checks=CHECKS)

    ask()
