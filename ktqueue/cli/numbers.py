"""Numbers as options: none that whoever gets it next could not take."""

from __future__ import annotations

import math
from typing import Any

import click

COUNT = click.IntRange(1, 1_000_000_000)


class Seconds(click.FloatRange):
    """Finite: NaN is in every range, for it is not below it, and infinity is no number in JSON."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As its base."""
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return float(seconds)
