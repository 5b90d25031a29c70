"""One frame of ``ktqueue top``: lanes and slots in a terminal of a given size. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ktqueue.cli.show import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ktqueue.client import Lane, Worker

LANES = ("lane", "mode", "waiting", "running", "jobs/s", "oldest", "tokens/s")
SLOTS = ("slot", "device", "jobs", "batch", "busy", "in/s", "out/s", "cache", "memory", "gpu")
LEFT = 2
"""Columns that are words; the others are numbers, and stand on the right."""
AROUND = 8
"""Lines of a frame that are not rows: two at the head, two blank ones, two headings, and two for what is left out."""

Row: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a server said when it last answered."""

    lanes: Sequence[Lane] = ()
    workers: Sequence[Worker] = ()


def frame(seen: Seen, head: str, trouble: str | None = None, *, height: int | None = None) -> RenderableType:
    """What fits ``height`` lines; the lanes and slots with most to do are shown if not all can be.

    ``trouble`` is what is wrong with the server; what is seen is then old.
    """
    from rich.console import Group
    from rich.text import Text

    lanes = sorted(seen.lanes, key=lambda lane: (-(lane.depth + lane.running), lane.model))
    workers = sorted(seen.workers, key=lambda each: (-each.running, each.model, each.slot))
    lanes_shown, workers_shown = shares(len(lanes), len(workers), None if height is None else height - AROUND)
    said, style = (trouble, "bold red") if trouble else (totals(seen), "")
    return Group(
        Text(head, style="bold", no_wrap=True, overflow="ellipsis"),
        Text(said, style=style, no_wrap=True, overflow="ellipsis"),
        Text(),
        _table(LANES, _lane_rows(lanes[:lanes_shown], seen.workers)),
        *_left_out(len(lanes) - lanes_shown),
        Text(),
        _table(SLOTS, [_slot_row(each) for each in workers[:workers_shown]]),
        *_left_out(len(workers) - workers_shown),
    )


def shares(lanes: int, workers: int, room: int | None) -> tuple[int, int]:
    """How many rows of each fit; whoever has fewer leaves the rest to the other."""
    if room is None or lanes + workers <= room:
        return lanes, workers
    half = max(1, room // 2)
    if lanes <= half:
        return lanes, max(1, room - lanes)
    if workers <= half:
        return max(1, room - workers), workers
    return half, half


def totals(seen: Seen) -> str:
    """The service in one line."""
    waiting, running = (
        sum(numbers) for numbers in ([lane.depth for lane in seen.lanes], [lane.running for lane in seen.lanes])
    )
    tokens = sum(each.pulse.generated_tokens_per_second for each in seen.workers)
    memory = sum(each.pulse.memory_bytes for each in seen.workers)
    slots = f"{len(seen.workers)} slot" + ("" if len(seen.workers) == 1 else "s")
    return f"{waiting:,} waiting  {running:,} running  {slots}  {tokens:,.0f} tokens/s out  {size(memory)} in slots"


def size(count: float) -> str:
    """Bytes for people: ``1.2 GB``, three digits at most."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.1f} {unit}" if count < 9.95 and unit != "B" else f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _lane_rows(lanes: Sequence[Lane], workers: Sequence[Worker]) -> list[Row]:
    tokens: defaultdict[str, float] = defaultdict(float)
    for worker in workers:
        tokens[worker.model] += worker.pulse.generated_tokens_per_second
    return [
        (
            lane.model,
            lane.mode.value,
            f"{lane.depth:,}",
            f"{lane.running:,}" if lane.concurrency is None else f"{lane.running:,}/{lane.concurrency:,}",
            "–" if lane.throughput is None else f"{lane.throughput:,.1f}",
            "–" if lane.oldest_wait_seconds is None else duration(1000 * lane.oldest_wait_seconds) or "–",
            f"{tokens[lane.model]:,.0f}",
        )
        for lane in lanes
    ]


def _slot_row(worker: Worker) -> Row:
    pulse = worker.pulse
    return (
        f"{worker.model}/{worker.slot}",
        worker.device.partition(" ")[0],
        worker.state.value if worker.capacity is None else f"{worker.running}/{worker.capacity.jobs}",
        f"{pulse.batch:.0f}",
        f"{pulse.busy:.0%}",
        f"{pulse.prompt_tokens_per_second:,.0f}",
        f"{pulse.generated_tokens_per_second:,.0f}",
        f"{pulse.cache_blocks_used / pulse.cache_blocks:.0%}" if pulse.cache_blocks else "–",
        size(pulse.memory_bytes),
        f"{pulse.device_memory_used_bytes / pulse.device_memory_bytes:.0%}" if pulse.device_memory_bytes else "–",
    )


def _table(headings: Row, rows: Sequence[Row]) -> RenderableType:
    """Words are cut where the terminal is narrow, numbers are not."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold cyan")
    for place, heading in enumerate(headings):
        if place < LEFT:
            made.add_column(heading, no_wrap=True, overflow="ellipsis")
        else:
            widest = max(len(row[place]) for row in (headings, *rows))
            made.add_column(heading, no_wrap=True, justify="right", min_width=widest)
    for row in rows:
        made.add_row(*map(Text, row))
    return made


def _left_out(count: int) -> list[RenderableType]:
    from rich.text import Text

    return [Text(f"… and {count} more", style="dim")] if count > 0 else []
