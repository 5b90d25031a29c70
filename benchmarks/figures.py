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
    ours: float
    theirs: float | None = None
    ratios: Sequence[float] = ()
    target: str = ""
    met: bool | None = None


def at_least_times(what: str, ours: Sequence[float], theirs: Sequence[float], target: float) -> Figure:
    """Ours is to be ``target`` times theirs. Rounds are compared in pairs, so what slows both cancels out."""
    figure = compared(what, ours, theirs)
    met = median(figure.ratios) >= target
    return Figure(what, figure.ours, figure.theirs, figure.ratios, f"≥ {target:g} ×", met)


def at_least(what: str, ours: Sequence[float], target: float) -> Figure:
    """Ours is to reach ``target``."""
    return Figure(what, median(ours), target=f"≥ {target:,g}", met=median(ours) >= target)


def at_most(what: str, ours: Sequence[float], theirs: Sequence[float], target: float) -> Figure:
    """Ours is to stay within ``target``; theirs is told to compare."""
    figure = compared(what, ours, theirs)
    return Figure(what, figure.ours, figure.theirs, figure.ratios, f"≤ {target:,g}", figure.ours <= target)


def at_most_times(what: str, ours: Sequence[float], theirs: Sequence[float], target: float) -> Figure:
    """Ours is to stay within ``target`` times the other."""
    figure = compared(what, ours, theirs)
    met = median(figure.ratios) <= target
    return Figure(what, figure.ours, figure.theirs, figure.ratios, f"≤ {target:g} ×", met)


def compared(what: str, ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Nothing is wanted of it; it is good to know."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Figure(what, median(ours), median(theirs), ratios)


def show(figures: Sequence[Figure]) -> None:
    """Print the table."""
    table = Table("what", *(Column(name, justify="right") for name in ("ktqueue", "other", "ratio", "target")), "met")
    for figure in figures:
        other = "" if figure.theirs is None else _number(figure.theirs)
        met = {True: "yes", False: "NO", None: ""}[figure.met]
        table.add_row(figure.what, _number(figure.ours), other, _ratio(figure.ratios), figure.target, met)
    Console(width=WIDTH).print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _ratio(ratios: Sequence[float]) -> str:
    """The median and, of several rounds, the least and the most."""
    if not ratios:
        return ""
    spread = f" ({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 else ""
    return f"{median(ratios):.2f}{spread}"
