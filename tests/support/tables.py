"""The tables of docs/configuration.md and docs/metrics.md, made from what they describe."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel

from api.exposition import Machine, Shared
from api.http_metrics import HttpMetrics
from api.queue_metrics import QueueMetrics
from ktqueue.ledgers import Role, take
from ktqueue.models import ModelSpec
from ktqueue.settings import PREFIX, Settings
from ktqueue.upstreams import Patience, Upstream
from tests.support.scene import MODEL, Scene
from worker.metrics import DeliveryMetrics, LaneMetrics, RepairMetrics

HOME = Path.home()
CODE = Path(__file__).resolve().parents[2]


def settings_table() -> str:
    """One row a setting: variable, values, default, meaning."""
    properties = Settings.model_json_schema()["properties"]
    rows = [
        (f"`{PREFIX}{name.upper()}`", values(properties[name]), shown(Settings().model_dump()[name]), field.description)
        for name, field in Settings.model_fields.items()
    ]
    return table(("variable", "values", "default", "what it says"), rows)


def models_table() -> str:
    """One row an entry of a [models.ALIAS] table; its own first, then those of what it is made of."""
    entries = [name for name in ModelSpec.model_fields if name not in Patience.model_fields]
    return entries_table(ModelSpec, [*entries, *Patience.model_fields])


def instances_table() -> str:
    """One row an entry of a [[models.ALIAS.instances]] table."""
    return entries_table(Upstream, list(Upstream.model_fields))


def entries_table(model: type[BaseModel], names: list[str]) -> str:
    """One row an entry, in the order of ``names``."""
    schema = model.model_json_schema()
    documented = {name: text for part in reversed(model.__mro__) for name, text in docstrings_in(part).items()}
    fields = model.model_fields
    rows = [
        (
            f"`{name}`",
            values(schema["properties"][name]),
            "needed" if fields[name].is_required() else shown(fields[name].default),
            documented[name].replace("``", "`"),
        )
        for name in names
        if name != "alias"
    ]
    return table(("entry", "values", "default", "what it says"), rows)


def metrics_table(folder: Path) -> str:
    """One row a metric: name, kind, labels, who counts it, meaning. ``folder`` is empty."""
    take(folder, Role("api"))
    rows = [
        (f"`{name}`", metric.type, ", ".join(f"`{label}`" for label in labels), who, metric.documentation)
        for who, collectors in metric_families(folder).items()
        for metric, labels in collectors
        for name in [f"{metric.name}_total" if metric.type == "counter" else metric.name]
    ]
    return table(("metric", "kind", "labels", "told by", "what it says"), rows)


def metric_families(folder: Path) -> dict[str, list[tuple[Metric, tuple[str, ...]]]]:
    """Every family with its labels, by who tells it."""
    counted = {name: CollectorRegistry() for name in ("lane", "light", "deliver", "api")}
    LaneMetrics(MODEL, counted["lane"])
    RepairMetrics(counted["light"])
    DeliveryMetrics(counted["deliver"])
    HttpMetrics(counted["api"])
    asked: list[tuple[str, Collector]] = [
        ("api, of the database and Redis", QueueMetrics(Scene().operating, [MODEL])),
        ("whoever serves /metrics", Machine()),
        ("whoever serves /metrics", Shared(folder)),
    ]
    told = {
        who: [(metric, labels_of(registry._names_to_collectors[metric.name])) for metric in registry.collect()]
        for who, registry in counted.items()
    }
    for who, collector in asked:
        told.setdefault(who, []).extend((metric, labels_of(metric)) for metric in collector.collect())
    return told


def labels_of(family: object) -> tuple[str, ...]:
    """The labels of a family, which may have no sample yet."""
    return tuple(getattr(family, "_labelnames", ()))


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def values(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words; an item that may be a list of items is shown as an item."""
    match schema:
        case {"anyOf": [one, *_]} | {"type": "array", "items": {"type": "array"} as one}:
            said = values(one)
        case {"enum": names}:
            said = ", ".join(f"`{name}`" for name in names)
        case {"pattern": pattern}:
            names = pattern.removeprefix("^(").removesuffix(")$").replace(r"(:\d+)?", "[:N]").split("|")
            said = ", ".join(f"`{name}`" for name in names)
        case {"type": "array", "items": {"$ref": _}}:
            said = "tables"
        case {"type": "array", "items": items}:
            said = f"list of {values(items)}"
        case {"type": "integer", "minimum": least, "maximum": most}:
            said = f"{least:,} to {most:,}"
        case {"type": "integer", "minimum": least}:
            said = f"{least:,} and more"
        case {"type": "number", "maximum": most}:
            said = f"seconds, up to {most:,.0f}"
        case {"format": "path"} | {"type": "number" | "boolean"}:
            said = {"boolean": "`true`, `false`"}.get(schema.get("type", ""), schema.get("format", "number"))
        case _:
            said = "text"
    return said


def shown(default: object) -> str:
    """A default as one would write it; of a path, what is the same on every machine."""
    match default:
        case None | "" | ():
            return ""
        case bool():
            return f"`{str(default).lower()}`"
        case Path() if default.is_relative_to(CODE):
            return f"`{default.relative_to(CODE)}` beside the code"
        case Path():
            return f"`~/{default.relative_to(HOME)}`"
        case _:
            return f"`{default}`"


def docstrings_in(part: type[object]) -> dict[str, str]:
    """The same, of a part of our own models; a library's have none that we show."""
    return attribute_docstrings(part) if part in {ModelSpec, Patience, Upstream} else {}


def attribute_docstrings(model: type[object]) -> dict[str, str]:
    """The string under each field of a class."""
    body = ast.parse(inspect.getsource(model)).body[0]
    assert isinstance(body, ast.ClassDef)
    return dict(_documented(body.body))


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, text
