"""Figures: medians over rounds, ratios of rounds that ran one after the other, and whether they are what we want."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Column, Table

WIDTH = 110


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table. ``theirs``: the same of what it is compared with; ``met``: None where nothing is wanted."""

    what: str
    unit: str
    ours: float
    theirs: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None


def at_least_times(what: str, unit: str, ours: Sequence[float], theirs: Sequence[float], target: float) -> Figure:
    """Ours is to be ``target`` times theirs. Rounds are compared in pairs, so what slows both cancels out."""
    ratio = median(mine / other for mine, other in zip(ours, theirs, strict=True))
    return Figure(what, unit, median(ours), median(theirs), ratio, f"≥ {target:g} ×", ratio >= target)


def at_least(what: str, unit: str, ours: Sequence[float], target: float) -> Figure:
    """Ours is to reach ``target``."""
    return Figure(what, unit, median(ours), target=f"≥ {target:,g}", met=median(ours) >= target)


def at_most(what: str, unit: str, ours: Sequence[float], theirs: Sequence[float], target: float) -> Figure:
    """Ours is to stay within ``target``; theirs is told to compare."""
    mine, other = median(ours), median(theirs)
    return Figure(what, unit, mine, other, mine / other, f"≤ {target:,g}", mine <= target)


def compared(what: str, unit: str, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Nothing is wanted of it; it is good to know."""
    return Figure(what, unit, median(ours), median(theirs), median(ours) / median(theirs))


def show(figures: Sequence[Figure]) -> None:
    """Print the table."""
    table = Table("what", *(Column(name, justify="right") for name in ("ktqueue", "other", "ratio", "target")), "met")
    for figure in figures:
        table.add_row(
            f"{figure.what}, {figure.unit}",
            _number(figure.ours),
            _number(figure.theirs),
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            figure.target,
            {True: "yes", False: "NO", None: ""}[figure.met],
        )
    Console(width=WIDTH).print(table)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
