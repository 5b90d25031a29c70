"""What the workers count, on a drain loop and a sender of a scene."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from ktqueue.presence.base import Pulse
from ktqueue.sweep import Repairs
from ktqueue.webhook import Answer
from tests.support.draining import STEP_S, Stop, job_of, runner, toy
from tests.support.scene import MODEL, Scene
from tests.support.toy import ToyEngine
from worker.engines.base import Vitals
from worker.engines.device_use import DeviceUse
from worker.metrics import DeliveryMetrics, LaneMetrics, RepairMetrics
from worker.pulse import PulseTaker


class Counted:
    """A lane's numbers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = LaneMetrics(MODEL, self.registry)

    def of(self, name: str, **labels: Any) -> float | None:
        return self.registry.get_sample_value(f"ktqueue_{name}", {"model": MODEL} | labels)


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_drain_tells_how_long_all_took_and_how_it_ended(scene: Scene, counted: Counted) -> None:
    job_of(scene, 3)
    job_of(scene, 1, "permanent")
    job_of(scene, 2, "retryable", max_attempts=2)
    scene.clock.sleep(2.0)
    runner(scene, toy(scene), meter=counted.metrics).drain()

    assert counted.of("attempts_total", outcome="succeeded") == 1
    assert counted.of("attempts_total", outcome="failed") == 1
    assert counted.of("attempts_total", outcome="retried") == 1 == counted.of("retries_total")
    assert (counted.of("job_queue_seconds_count"), counted.of("step_jobs_count")) == (3, 3)
    assert counted.of("job_queue_seconds_bucket", le="1.0") == 0
    assert counted.of("job_queue_seconds_bucket", le="2.5") == 3
    assert counted.of("step_jobs_sum") == 3 + 2 + 1
    assert counted.of("step_seconds_sum") == pytest.approx(3 * STEP_S)
    assert counted.of("attempt_seconds_sum") == pytest.approx((3 + 1 + 2) * STEP_S)
    # Those of three and of two steps spoke once before their last; the longer one, twice.
    assert (counted.of("time_to_first_token_seconds_count"), counted.of("time_between_tokens_seconds_count")) == (2, 1)
    assert counted.of("time_to_first_token_seconds_sum") == pytest.approx(2 * (2 + STEP_S), abs=0.01)
    assert counted.of("time_between_tokens_seconds_sum") == pytest.approx(STEP_S)


def test_only_what_was_still_ours_to_end_is_counted(scene: Scene, counted: Counted) -> None:
    job = job_of(scene, 2)
    runner(scene, toy(scene, at={2: lambda: scene.intake.cancel(job.id)}), meter=counted.metrics).drain()

    assert counted.of("attempts_total", outcome="succeeded") == 0


def test_a_retry_has_not_waited_in_the_queue_anew(scene: Scene, counted: Counted) -> None:
    job_of(scene, 1, "retryable", max_attempts=2)
    for _ in range(2):
        runner(scene, toy(scene), meter=counted.metrics).drain()
        scene.clock.sleep(60)
        scene.sweep()

    assert counted.of("job_queue_seconds_count") == 1
    assert counted.of("attempt_seconds_count") == 2


def test_what_is_given_back_and_what_leaves_at_its_deadline_is_told(scene: Scene, counted: Counted) -> None:
    stop = Stop()
    job_of(scene, 9, deadline_s=3.0)
    job_of(scene, 99)
    engine = ToyEngine(each_step=lambda: scene.clock.sleep(1.0), at={5: stop.ask})
    runner(scene, engine, stop, counted.metrics).drain()

    assert counted.of("attempts_total", outcome="expired") == 1
    assert counted.of("attempts_total", outcome="given_back") == 1


def test_a_pulse_adds_what_is_new_and_shows_what_is(counted: Counted) -> None:
    vitals = iter([Vitals(10, 4, 2, 5, 4, 1, 64, 8), Vitals(15, 9, 2, 8, 6, 3, 64, 0)])
    uses = iter([[DeviceUse("cuda:0", 3, 8, 0.5)], []])
    clock = iter([0.0, 1.0, 3.0])
    taker = PulseTaker(
        lambda: next(vitals), lambda: next(uses), counted.metrics, resident=lambda: 77, clock=lambda: next(clock)
    )
    first = taker.look()
    assert (counted.of("kv_blocks"), counted.of("kv_blocks_used")) == (64, 8)
    counted.metrics.stepped(0.5, 6)
    counted.metrics.stepped(0.1, 3)
    second = taker.look()

    assert first == Pulse(10.0, 4.0, 0.0, 0.0, 64, 8, 77, 8, 3)
    assert second == Pulse(2.5, 2.5, 0.3, 4.5, 64, 0, 77, 0, 0)
    names = ("prompt_tokens", "generated_tokens", "padding_tokens", "draft_tokens", "accepted_tokens", "preemptions")
    assert [counted.of(f"{name}_total") for name in names] == [15, 9, 2, 8, 6, 3]
    assert counted.of("kv_blocks_used") == 0
    of_device = [
        counted.registry.get_sample_value(f"ktqueue_device_{name}", {"device": "cuda:0"})
        for name in ("memory_used_bytes", "memory_bytes", "utilization_ratio")
    ]
    assert of_device == [3, 8, 0.5]


def test_no_slot_is_busier_than_all_the_time(counted: Counted) -> None:
    clock = iter([0.0, 1.0])
    taker = PulseTaker(Vitals, list, counted.metrics, resident=lambda: 0, clock=lambda: next(clock))
    counted.metrics.stepped(20.0, 1)
    assert taker.look().busy == 1.0


def test_deliveries_are_told_by_the_class_of_their_answer() -> None:
    registry = CollectorRegistry()
    metrics = DeliveryMetrics(registry)
    metrics.answered([Answer(204, None, 20), Answer(503, None, 700), Answer(None, "timeout", 15_000)])
    metrics.answered([Answer(999, None, 1)])

    def of(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"ktqueue_{name}", labels)

    assert [of("deliveries_total", answer=each) for each in ("2xx", "3xx", "4xx", "5xx", "none")] == [1, 0, 0, 1, 2]
    assert of("delivery_seconds_sum") == pytest.approx(15.721)


def test_repairs_are_told_by_kind() -> None:
    registry = CollectorRegistry()
    metrics = RepairMetrics(registry)
    for _ in range(2):
        metrics.repaired(Repairs(recovered=2, expired=0, woken=1, requeued=0))

    assert registry.get_sample_value("ktqueue_repairs_total", {"kind": "recovered"}) == 4
    assert registry.get_sample_value("ktqueue_repairs_total", {"kind": "expired"}) == 0
