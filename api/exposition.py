"""What all processes that count in one folder have come to, and how they and the machine do, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from ktqueue.ledgers import Holder, Role, Survey, survey

OPENMETRICS = "application/openmetrics-text"
ROLE = ["process", "model"]


class Shared(Collector):
    """The folder's numbers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Look round: sums of what was counted, also by those that have died; and who lives."""
        seen = survey(self._folder)
        yield from MultiProcessCollector.merge(seen.files)
        yield from _processes(seen)


class Machine(Collector):
    """The memory of the machine."""

    def collect(self) -> Iterable[Metric]:
        """Ask the kernel."""
        memory = psutil.virtual_memory()
        yield GaugeMetricFamily("ktqueue_host_memory_bytes", "Memory of the machine.", memory.total)
        yield GaugeMetricFamily(
            "ktqueue_host_memory_available_bytes", "What of it can be had without swapping.", memory.available
        )


def expose(collectors: Sequence[Collector], accept: str) -> tuple[bytes, str]:
    """All they collect, in the format that the header ``Accept`` asks for; and its Content-Type."""
    registry = registry_of(collectors)
    if OPENMETRICS in accept:
        return openmetrics.generate_latest(registry, version="1.0.0"), openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


def registry_of(collectors: Sequence[Collector]) -> CollectorRegistry:
    """A registry that asks these, and only when it is asked: not what they are going to say."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    return registry


def _processes(seen: Survey) -> Iterator[Metric]:
    count = GaugeMetricFamily("ktqueue_processes", "Processes that run and do not only supervise.", labels=ROLE)
    memory = GaugeMetricFamily("ktqueue_process_resident_memory_bytes", "Memory that these hold.", labels=ROLE)
    crashes = CounterMetricFamily("ktqueue_crashes", "Processes that ended other than in good order.", labels=ROLE)
    held: Counter[Role] = Counter()
    for holder in seen.living:
        held[holder.role] += _resident(holder)
    for role, times in Counter(holder.role for holder in seen.living).items():
        count.add_metric([role.process, role.model], times)
        memory.add_metric([role.process, role.model], held[role])
    # Of whoever lives also that it never crashed, so that the first time is seen as a change.
    for role in sorted({*seen.crashes, *held}, key=lambda each: (each.process, each.model)):
        crashes.add_metric([role.process, role.model], seen.crashes.get(role, 0))
    yield from (count, memory, crashes)


def _resident(holder: Holder) -> int:
    with suppress(psutil.NoSuchProcess):
        resident: int = psutil.Process(holder.pid).memory_info().rss
        return resident
    return 0
