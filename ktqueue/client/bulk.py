"""Cutting any number of jobs into the bodies of bulk submits. Pure; never holds more than one body."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

from ktqueue.client.values import JobOptions, JobSpec, job_body

MAX_LINES = 1_000
MAX_BYTES = 4_000_000
"""Far below the server's bounds. A body is kept until it is answered, so that it can be sent again if it was turned
away; it is as much as one lost connection leaves in doubt; and its answers fit in the sockets' buffers, as they must:
over HTTP/1.1 nothing is read until all is sent."""


class NumberedLine(NamedTuple):
    """A job as a line of NDJSON, and its place among those that were given, from 1."""

    number: int
    text: bytes


def bodies(jobs: Iterable[JobSpec | str | bytes]) -> Iterator[list[NumberedLine]]:
    """The lines of each body. A job larger than a body may be travels alone. Text is a line; blank ones go."""
    lines: list[NumberedLine] = []
    size = 0
    for number, job in enumerate(jobs, 1):
        text = _line(job)
        if not text.strip():
            continue
        if lines and (len(lines) == MAX_LINES or size + len(text) > MAX_BYTES):
            yield lines
            lines, size = [], 0
        lines.append(NumberedLine(number, text))
        size += len(text)
    if lines:
        yield lines


def _line(job: JobSpec | str | bytes) -> bytes:
    if isinstance(job, str):
        job = job.encode()
    if isinstance(job, bytes):
        return job.rstrip(b"\r\n") + b"\n"
    options = cast("JobOptions", {key: value for key, value in job.items() if key not in {"model", "input"}})
    return json.dumps(job_body(job["model"], job["input"], options), allow_nan=False).encode() + b"\n"
