"""How many requests there were, what they were answered, and how long that took: by route, and no finer."""

from __future__ import annotations

from time import perf_counter

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Histogram

NO_ROUTE = "none"
OTHER = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})
TOOK_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 60)


class HttpMetrics:
    """Of one process of the API. ``route`` is a route's template; what matches none is ``none``."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._took = Histogram(
            "ktqueue_http_request_seconds",
            "Time to the head of the answer; the status is its class. Waits that a client asked for are part of it.",
            ["method", "route", "status"],
            registry=registry,
            buckets=TOOK_S,
        )
        self._known: dict[tuple[str, str, int], Histogram] = {}

    def register(self, app: Flask) -> None:
        """Time every request. Call it before anything else that looks at requests."""
        app.before_request(self._begin)
        app.after_request(self._end)

    @staticmethod
    def _begin() -> None:
        g.began = perf_counter()

    def _end(self, response: Response) -> Response:
        route = NO_ROUTE if request.url_rule is None else request.url_rule.rule
        method = request.method if request.method in METHODS else OTHER
        key = method, route, response.status_code // 100
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._took.labels(method, route, f"{key[2]}xx")
        known.observe(perf_counter() - g.began)
        return response
