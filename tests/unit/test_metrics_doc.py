"""docs/metrics.md tells of each metric what the code says, and names no other."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.tables import metric_families, metrics_table

DOC = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
SUFFIXES = ("_bucket", "_sum", "_count")
BOUNDED = {"model", "outcome", "answer", "kind", "process", "device", "method", "route", "status"}


def test_the_table_is_up_to_date(tmp_path: Path) -> None:
    text = DOC.read_text(encoding="utf-8")
    found = re.search(r"<!-- metrics -->\n(.*?)\n<!-- end of metrics -->", text, re.DOTALL)
    expected = metrics_table(tmp_path)

    assert found is not None
    assert found[1] == expected, f"put this between the markers:\n{expected}"


def test_no_example_names_a_metric_that_is_not_there(tmp_path: Path) -> None:
    told = set(re.findall(r"`(ktqueue_\w+)`", metrics_table(tmp_path)))
    named = {re.sub(rf"({'|'.join(SUFFIXES)})$", "", name) for name in re.findall(r"\bktqueue_\w+", DOC.read_text())}

    assert named <= told


def test_names_and_labels_are_as_prometheus_wants_them(tmp_path: Path) -> None:
    families = [each for some in metric_families(tmp_path).values() for each in some]
    names = [metric.name for metric, _ in families]

    assert len(set(names)) == len(names)
    for metric, labels in families:
        assert re.fullmatch(r"ktqueue_[a-z]+(_[a-z]+)*", metric.name), metric.name
        assert not re.search(r"_(ms|milliseconds|kb|mb|percent|total|count|sum)$", metric.name), metric.name
        assert set(labels) <= BOUNDED, metric.name
        assert metric.documentation.endswith("."), metric.name
