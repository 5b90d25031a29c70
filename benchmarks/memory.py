"""Memory of a service that has done some work: the proportional set size of all its processes (Linux tells it).

Of ours without the workers of lanes, whose size is that of their models.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

import psutil

from benchmarks import up
from benchmarks.figures import Figure, at_most
from benchmarks.idle import times

JOBS = 50
MB = 1e6


def measure(*, quick: bool) -> list[Figure]:
    """Megabytes of both services."""
    if sys.platform != "linux":
        return []
    ours, theirs = _pss(up.ktqueue(), 20 if quick else JOBS), _pss(up.plain(), 20 if quick else JOBS)
    return [at_most("memory (PSS) without model workers, MB", [ours], [theirs], 400)]


def _pss(service: AbstractContextManager[up.Service], jobs: int) -> float:
    with service as running:
        times(running, jobs)
        everything = psutil.Process().children(recursive=True)
        lanes = [process for process in everything if "lane" in process.cmdline()]
        models = {worker for lane in lanes for worker in (lane, *lane.children(recursive=True))}
        return sum(process.memory_full_info().pss for process in everything if process not in models) / MB
