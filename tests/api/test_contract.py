"""Requests generated from the OpenAPI document, good and bad: no server error, and every answer is one it tells of."""

from __future__ import annotations

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks

from api.operations import OPERATIONS, Operation
from tests.api.wiring import JOBS, NDJSON, Api

EXAMPLES = 30
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
        if "job_id" in (case.path_parameters or {}) and which != "as generated":
            case.path_parameters["job_id"] = contract.some_job(which)
        response = case.call()
        case.validate_response(response, checks=CHECKS)

    ask()
