"""/metrics: what is told, in which formats, and what is left out while a part is away."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from werkzeug.test import TestResponse

from api.app import create_app
from api.http_metrics import HttpMetrics
from api.queue_metrics import QueueMetrics
from ktqueue.ledgers import Role, take
from ktqueue.presence.base import Slot
from ktqueue.room import Room
from tests.api.wiring import CATALOGUE, Api, problem_of

METRICS = "/metrics"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
NAME = re.compile(r"ktqueue_[a-z][a-z_]*[a-z]")


def told(response: TestResponse) -> dict[str, Metric]:
    assert response.status_code == 200, response.text
    return {metric.name: metric for metric in plain(response.text)}


def values(metric: Metric) -> dict[str, float]:
    """By the value of its only label."""
    return {next(iter(sample.labels.values()), ""): sample.value for sample in metric.samples}


def test_lanes_and_slots_are_told_for_each_model_of_the_catalogue(api: Api) -> None:
    for _ in range(3):
        api.accepted()
    api.scene.claim(1)
    api.scene.clock.sleep(2.5)
    api.scene.submit(model="gone")
    slot = Slot("h:1:2:m", "echo", "cpu", Room(8), running=1, since=0)
    api.scene.presence.tell(slot, for_ms=8_000)
    metrics = told(api.client.get(METRICS))

    idle = dict.fromkeys(CATALOGUE, 0.0)
    assert values(metrics["ktqueue_lane_queued_jobs"]) == idle | {"echo": 2}
    assert values(metrics["ktqueue_lane_depth_jobs"]) == idle | {"echo": 2}
    assert values(metrics["ktqueue_lane_running_jobs"]) == idle | {"echo": 1}
    assert values(metrics["ktqueue_lane_oldest_wait_seconds"]) == idle | {"echo": 2.5}
    assert values(metrics["ktqueue_slots"]) == idle | {"echo": 1}
    up = [values(metrics[f"ktqueue_{part}_up"]) for part in ("database", "redis")]
    assert up == [{"": 1}, {"": 1}]
    assert values(metrics["ktqueue_host_memory_available_bytes"])[""] > 0


@pytest.mark.parametrize("away", ["sql", "redis"])
def test_what_is_away_is_left_out_and_told(api: Api, away: str) -> None:
    api.accepted()
    getattr(api.scene, away).go()
    metrics = told(api.client.get(METRICS))

    there, gone = ("redis", "database") if away == "sql" else ("database", "redis")
    assert values(metrics[f"ktqueue_{there}_up"]) == {"": 1}
    assert values(metrics[f"ktqueue_{gone}_up"]) == {"": 0}
    assert ("ktqueue_lane_depth_jobs" in metrics) is (there == "redis")
    assert ("ktqueue_lane_queued_jobs" in metrics) is (there == "database")


def test_a_database_that_says_nothing_is_not_waited_for(api: Api) -> None:
    silent = threading.Event()
    api.scene.sql.before = lambda _: silent.wait()  # type: ignore[assignment] # what it says is of no use
    registry = CollectorRegistry()
    registry.register(QueueMetrics(api.scene.operating, ["echo"], patience_s=0.01))
    try:
        assert registry.get_sample_value("ktqueue_database_up") == 0
        assert registry.get_sample_value("ktqueue_redis_up") == 1
    finally:
        silent.set()


def test_both_formats_say_the_same_and_are_well_formed(api: Api, tmp_path: Path) -> None:
    take(tmp_path, Role("api"))
    client = create_app(api.services, tmp_path).test_client()
    text = client.get(METRICS)
    open_ = client.get(METRICS, headers={"Accept": f"{OPENMETRICS},text/plain;version=0.0.4;q=0.5"})
    assert text.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert open_.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")

    one, other = list(plain(text.text)), list(openmetrics(open_.text))
    assert {metric.name for metric in one} == {metric.name for metric in other}
    for metric in one:
        assert NAME.fullmatch(metric.name), metric
        assert metric.documentation.endswith("."), metric
        assert metric.type in {"gauge", "counter", "histogram"}, metric


def test_requests_are_told_by_template_method_and_class(api: Api) -> None:
    registry = CollectorRegistry()
    app = create_app(api.services)
    app.before_request_funcs[None].clear()
    app.after_request_funcs[None].clear()
    HttpMetrics(registry).register(app)
    client = app.test_client()
    job = api.accepted()["id"]
    for _ in range(2):
        client.get("/healthz")
    client.get("/nowhere/else?tenant=secret")
    client.open(f"/api/v1/jobs/{job}", method="BREW")
    client.delete("/healthz")

    def counts(metrics: Iterable[Metric]) -> dict[tuple[str, ...], float]:
        samples = [sample for metric in metrics for sample in metric.samples if sample.name.endswith("_count")]
        return {
            tuple(sample.labels[name] for name in ("method", "route", "status")): sample.value for sample in samples
        }

    assert counts(registry.collect()) == {
        ("GET", "/healthz", "2xx"): 2,
        ("GET", "none", "4xx"): 1,
        ("other", "none", "4xx"): 1,
        ("DELETE", "none", "4xx"): 1,
    }


def test_nothing_can_be_asked_of_it(api: Api) -> None:
    assert problem_of(api.client.get(f"{METRICS}?name[]=x"), 422)["code"] == "invalid_request"
