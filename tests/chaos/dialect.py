"""How each of the two services is spoken to, and how its answers are read."""

from __future__ import annotations

from typing import Any, Protocol

from tests.chaos.history import Job, Order


class Dialect(Protocol):
    """Paths and documents of one service."""

    jobs: str

    def document(self, order: Order) -> dict[str, Any]:
        """The body of a submit."""

    def job(self, body: Any) -> Job:
        """A job from the body of an answer."""


class Ours:
    """``/api/v1``. ``hook`` is the URL that jobs name as their webhook."""

    jobs = "/api/v1/jobs"

    def __init__(self, hook: str = "") -> None:
        self.hook = hook

    def document(self, order: Order) -> dict[str, Any]:
        """The body of a submit."""
        params: dict[str, Any] = {"delay_ms": order.delay_ms}
        if order.fail is not None:
            params["fail"] = order.fail
        webhook = {"webhook": {"url": self.hook, "events": list(order.webhook)}} if order.webhook and self.hook else {}
        return {"model": "echo", "input": order.input, "params": params, **webhook}

    def job(self, body: Any) -> Job:
        """A job from the body of an answer."""
        return Job(
            id=body["id"],
            number=body["input"].get("number", -1),
            state=body["state"],
            result=body["result"],
            error=(body["error"] or {}).get("code"),
            attempt=body["attempt"],
            finished_at=body["finished_at"],
        )


class Plain:
    """What `benchmarks/plain` answers."""

    jobs = "/jobs"

    def document(self, order: Order) -> dict[str, Any]:
        """The body of a submit."""
        return {"model": "echo", "input": {**order.input, "delay_ms": order.delay_ms}}

    def job(self, body: Any) -> Job:
        """A job from the body of an answer."""
        result = None if body["result"] is None else {**body["result"]}
        if result is not None:
            del result["delay_ms"]
        return Job(
            id=str(body["id"]),
            number=body["input"]["number"],
            state=body["state"],
            result=result,
            finished_at=body["finished_at"],
        )
