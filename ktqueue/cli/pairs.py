"""JSON on the command line, and options of the form ``key=value``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

import click


def _split(ctx: click.Context, param: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for key, equals, _ in pairs:
        if not (key and equals):
            raise click.BadParameter(f"{key!r} is not of the form key=value", ctx=ctx, param=param)
    return {key: value for key, _, value in pairs}


def _split_json(ctx: click.Context, param: click.Parameter, given: Sequence[str]) -> dict[str, Any]:
    return {key: _json_or_text(value) for key, value in _split(ctx, param, given).items()}


def strict_json(text: str) -> Any:
    """Raises ValueError for what is not JSON, NaN and Infinity too, and 1e999, which Python would take."""
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"there is no {name}")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits} is beyond all numbers")
    return number


def _json_or_text(value: str) -> Any:
    try:
        return strict_json(value)
    except ValueError:
        return value


METADATA = click.option("--metadata", multiple=True, metavar="KEY=VALUE", callback=_split, help="May be repeated.")
PARAMS = click.option(
    "--param",
    "params",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_split_json,
    help="The value is JSON if it can be, else text. May be repeated.",
)
