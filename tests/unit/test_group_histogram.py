"""A group that is observed at once comes to the same as each of it alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from worker.group_histogram import GroupHistogram

BOUNDS = (0.5, 1.0, 2.0)
AMOUNTS = st.lists(st.sampled_from([0.0, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 1e9]), max_size=20)


@settings(deadline=None)
@given(st.lists(AMOUNTS, max_size=4))
def test_groups_and_single_ones_are_the_same(groups: list[list[float]]) -> None:
    one, other = CollectorRegistry(), CollectorRegistry()
    grouped = GroupHistogram("h", "H.", registry=one, buckets=BOUNDS)
    single = Histogram("h", "H.", registry=other, buckets=BOUNDS)
    for group in groups:
        grouped.observe_all(group)
        for amount in group:
            single.observe(amount)

    def told(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
        samples = [sample for metric in registry.collect() for sample in metric.samples]
        return {(each.name, each.labels.get("le", "")): each.value for each in samples if "created" not in each.name}

    assert told(one) == told(other)
