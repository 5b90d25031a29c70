"""What the database and Redis know of lanes and slots, asked at the moment Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ktqueue.bounded import Bounded
from ktqueue.errors import Unavailable
from ktqueue.operating import Operating
from ktqueue.store.base import LaneCensus

T = TypeVar("T")

PATIENCE_S = 2.0
"""For each of the two. Prometheus gives up after 10 s, if it is not told otherwise."""
MODEL = ["model"]


class QueueMetrics(Collector):
    """Of the lanes of ``models``. What does not answer in time is left out, and told to be down."""

    def __init__(self, operating: Operating, models: Sequence[str], *, patience_s: float = PATIENCE_S) -> None:
        self._models = models
        self._census = Bounded(operating.census, most_s=patience_s)
        self._lanes = Bounded(lambda: (operating.depths(models), operating.living()), most_s=patience_s)

    def collect(self) -> Iterable[Metric]:
        """Ask both."""
        census, lanes = _answer(self._census), _answer(self._lanes)
        yield GaugeMetricFamily("ktqueue_database_up", "Whether the database answered, 1 or 0.", census is not None)
        yield GaugeMetricFamily("ktqueue_redis_up", "Whether Redis answered, 1 or 0.", lanes is not None)
        if census is not None:
            yield from self._stored(*census)
        if lanes is not None:
            depths, slots = lanes
            yield self._family("ktqueue_lane_depth_jobs", "Jobs in the lane: those whose turn can come.", depths)
            yield self._family("ktqueue_slots", "Slots that told of late that they live.", slots)

    def _stored(self, lanes: Sequence[LaneCensus], now: int) -> Iterable[Metric]:
        yield self._family(
            "ktqueue_lane_queued_jobs",
            "Jobs that are queued, those included whose time has not come.",
            {lane.model: lane.queued for lane in lanes},
        )
        yield self._family("ktqueue_lane_running_jobs", "Jobs that run.", {lane.model: lane.running for lane in lanes})
        yield self._family(
            "ktqueue_lane_oldest_wait_seconds",
            "How long the job has waited that has waited longest, of those whose time has come.",
            {lane.model: max(0, now - lane.oldest_due_at) / 1000 for lane in lanes if lane.oldest_due_at is not None},
        )

    def _family(self, name: str, means: str, values: Mapping[str, float]) -> Metric:
        """A value for each model of the catalogue, and for no other: 0 where there is nothing."""
        family = GaugeMetricFamily(name, means, labels=MODEL)
        for model in self._models:
            family.add_metric([model], values.get(model, 0))
        return family


def _answer(asked: Bounded[T]) -> T | None:
    """None if it does not come in time, or who was asked is away."""
    try:
        return asked()
    except (TimeoutError, Unavailable):
        return None
