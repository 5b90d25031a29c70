"""How things are printed: results on stdout, progress and complaints on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ktqueue.client import Job
    from ktqueue.client.values import Value


def compact(document: object) -> str:
    """JSON on one line."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def emit(value: Value) -> None:
    """What the server said, as one line of JSON."""
    click.echo(compact(value.model_dump(mode="json", exclude_unset=True)))


def output_of(job: Job) -> str:
    """What a job made: the text it generated, or its result as JSON."""
    if job.task == "generate" and job.text is not None:
        return job.text
    return compact(job.result)


def outcome_of(job: Job) -> str:
    """One line on how a job ended."""
    why = f": {job.error.message} ({job.error.code})" if job.error else ""
    return f"{job.id}  {job.state}{why}"


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; ids and numbers are never cut."""
    console().print(grid(headings, rows))


def grid(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Any:
    """A rich table; None is shown as a dash."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False)
    for heading in headings:
        made.add_column(heading, no_wrap=heading == "id", min_width=36 if heading == "id" else None)
    for row in rows:
        made.add_row(*(Text("–" if cell is None else str(cell)) for cell in row))
    return made


def facts(job: Job) -> None:
    """Print what is known of a job."""
    timing = job.timing
    known = {
        "id": job.id,
        "model": f"{job.model} ({job.task})",
        "state": job.state.value,
        "ahead of it": job.position,
        "attempt": f"{job.attempt} of {job.max_attempts}",
        "created": f"{job.created_at:%Y-%m-%d %H:%M:%S} UTC",
        "queued": duration(timing.queued_ms),
        "ran": duration(timing.run_ms),
        "largest batch": timing.largest_batch,
        "tokens": f"{job.usage.prompt_tokens} + {job.usage.completion_tokens}" if job.usage else None,
        "error": f"{job.error.message} ({job.error.code})" if job.error else None,
        "result": output_of(job) if job.result is not None else None,
    }
    pairs(known)


def pairs(known: Mapping[str, object]) -> None:
    """Print names and values, one pair a line; what is None is left out."""
    width = max(map(len, known))
    for name, value in known.items():
        if value is not None:
            click.echo(f"{click.style(name.ljust(width), bold=True)}  {value}")


def duration(milliseconds: float | None) -> str | None:
    """For people: ``12 ms``, ``3.4 s``, ``5 min``, ``7 h``, ``30 d``."""
    if milliseconds is None:
        return None
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    size, unit = next((size, unit) for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")) if seconds >= size)
    return f"{seconds / size:.0f} {unit}"


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """A sign of life on a terminal's stderr."""
    stderr = console(stderr=True)
    if not stderr.is_terminal:
        yield
        return
    with stderr.status(what):
        yield


def counted(jobs: Iterable[Job], total: int) -> Iterator[Job]:
    """The same jobs, with a progress bar on a terminal's stderr."""
    from rich.progress import track

    stderr = console(stderr=True)
    return iter(track(jobs, "finished", total=total, console=stderr, disable=not stderr.is_terminal))


@contextmanager
def progress_of(path: Path) -> Iterator[BinaryIO]:
    """A file opened for reading, with a bar on a terminal's stderr that shows how far it has been read."""
    from rich.progress import open as open_with_progress

    stderr = console(stderr=True)
    with open_with_progress(
        path, "rb", description="submitted", console=stderr, disable=not stderr.is_terminal
    ) as file:
        yield file


def console(*, stderr: bool = False) -> Console:
    """Where rich writes."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        # Nobody looks, a program reads: a row stays a line.
        made.width = 500
    return made
