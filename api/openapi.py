"""The OpenAPI 3.1 document, made of the types in `schemas.py` and `inputs.py` and the table in `operations.py`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from api.inputs import TASKS, EndpointChanges, EndpointRequest, JobRequest
from api.operation import JsonObject, Operation, Reply
from api.operations import OPERATIONS, PROBLEMS
from api.webhook_operations import EVENT
from ktqueue.models import Catalogue

KEY = "key"
BEARER = {"type": "http", "scheme": "bearer", "description": "An API key: `ktq_…`. Its scopes say what it allows."}
REF = "#/components/schemas/{model}"


def document(catalogue: Catalogue) -> JsonObject:
    """The document of an API that serves these models."""
    schemas = _Schemas()
    paths: dict[str, JsonObject] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ktqueue",
            "version": version("ktqueue"),
            "description": "An inference job service: POST a job; poll it, follow it, or be told by webhook.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(operation.tag for operation in OPERATIONS)],
        "paths": paths,
        "webhooks": {EVENT.id: {EVENT.method: _operation(EVENT, schemas)}},
        "components": {"schemas": schemas.all(catalogue), "securitySchemes": {KEY: BEARER}},
    }


class _Schemas:
    """The schemas that were referred to."""

    def __init__(self) -> None:
        self._found: dict[str, JsonObject] = {}

    def of(self, kind: Any, mode: JsonSchemaMode) -> JsonObject:
        """A schema that refers to the components it needs, which are kept."""
        schema = TypeAdapter(kind).json_schema(mode=mode, ref_template=REF)
        self._found |= schema.pop("$defs", {})
        if "properties" not in schema:
            return schema
        self._found[schema["title"]] = schema
        return {"$ref": REF.format(model=schema["title"])}

    def all(self, catalogue: Catalogue) -> JsonObject:
        """Every component; models, tasks, inputs and params are those that this catalogue has."""
        tasks = sorted({task for spec in catalogue.values() for task in spec.offers})
        request = self._found[JobRequest.__name__]["properties"]
        request["model"]["enum"] = list(catalogue)
        request["task"]["enum"] = tasks
        request["input"] = {"anyOf": self._distinct(TASKS[task].input.kind for task in tasks)}
        request["params"] = {"anyOf": self._distinct(TASKS[task].params.kind for task in tasks)}
        for kind in (EndpointRequest, EndpointChanges):
            alias, _null = self._found[kind.__name__]["properties"]["model"]["anyOf"]
            alias["enum"] = list(catalogue)
        return self._found

    def _distinct(self, kinds: Any) -> list[JsonObject]:
        schemas: list[JsonObject] = []
        for kind in kinds:
            schema = self.of(kind, "validation")
            if schema not in schemas:
                schemas.append(schema)
        return schemas


def _operation(operation: Operation, schemas: _Schemas) -> JsonObject:
    problems = [*operation.problems, *([] if operation.scope is None else [401, 403, 429, 503])]
    replies = {**operation.replies, **{status: PROBLEMS[status] for status in problems}}
    told: JsonObject = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        # Where keys are not asked for, none is needed.
        "security": [] if operation.scope is None else [{KEY: [operation.scope.value]}, {}],
        "responses": {str(status): _reply(reply, schemas) for status, reply in sorted(replies.items())},
    }
    if operation.parameters:
        told["parameters"] = list(operation.parameters)
    if operation.body is not None:
        schema = schemas.of(operation.body, "validation")
        told["requestBody"] = {"required": True, "content": {operation.media: {"schema": schema}}}
    return told


def _reply(reply: Reply, schemas: _Schemas) -> JsonObject:
    told: JsonObject = {"description": reply.means}
    if reply.headers:
        told["headers"] = _headers(reply.headers)
    if reply.body is not None:
        told["content"] = {reply.media: {"schema": schemas.of(reply.body, "serialization")}}
    return told


def _headers(headers: Mapping[str, str]) -> JsonObject:
    return {name: {"description": means, "schema": {"type": "string"}} for name, means in headers.items()}
