"""The tables of docs/configuration.md, made from what they describe."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from ktqueue.models import ModelSpec
from ktqueue.settings import PREFIX, Settings

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
    """One row an entry of a [models.ALIAS] table."""
    schema = ModelSpec.model_json_schema()
    documented = attribute_docstrings(ModelSpec)
    rows = [
        (
            f"`{name}`",
            values(schema["properties"][name]),
            "needed" if field.is_required() else shown(field.default),
            documented[name].replace("``", "`"),
        )
        for name, field in ModelSpec.model_fields.items()
        if name != "alias"
    ]
    return table(("entry", "values", "default", "what it says"), rows)


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
        case {"type": "array", "items": items}:
            said = f"list of {values(items)}"
        case {"type": "integer", "minimum": least, "maximum": most}:
            said = f"{least:,} to {most:,}"
        case {"type": "integer", "minimum": least}:
            said = f"{least:,} and more"
        case {"type": "number", "maximum": most}:
            said = f"seconds, up to {most:,.0f}"
        case {"format": "path"} | {"type": "number"}:
            said = schema.get("format", "number")
        case {"type": "boolean"}:
            said = "`true`, `false`"
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
