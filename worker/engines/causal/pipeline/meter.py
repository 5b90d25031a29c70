"""How long each stage has been at work: a number a stage, in memory that they share with their slot."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SECONDS = struct.Struct("<d")


class Meter:
    """Seconds of work of so many ``stages`` since they are warm."""

    def __init__(self, stages: int, descriptor: int | None = None) -> None:
        if descriptor is None:
            with tempfile.TemporaryFile() as file:
                file.truncate(stages * _SECONDS.size)
                descriptor = os.dup(file.fileno())
        self.descriptor = descriptor
        self._page = mmap.mmap(descriptor, stages * _SECONDS.size)
        self._stages = stages

    def read(self) -> list[float]:
        """Of each stage."""
        return [_SECONDS.unpack_from(self._page, stage * _SECONDS.size)[0] for stage in range(self._stages)]

    def add(self, stage: int, seconds: float) -> None:
        """Only this stage's own process may."""
        at = stage * _SECONDS.size
        _SECONDS.pack_into(self._page, at, _SECONDS.unpack_from(self._page, at)[0] + seconds)


class Stopwatch:
    """Times the steps of one stage on its ``device``, without waiting for it."""

    def __init__(self, meter: Meter, stage: int, device: torch.device) -> None:
        self._meter = meter
        self._stage = stage
        self._cuda = device.type == "cuda"
        self._running: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around what is launched for one step."""
        if not self._cuda:
            began = time.perf_counter()
            yield
            self._meter.add(self._stage, time.perf_counter() - began)
            return
        began_at, ended_at = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began_at.record()
        yield
        ended_at.record()
        self._running.append((began_at, ended_at))
        while self._running and self._running[0][1].query():
            began_at, ended_at = self._running.popleft()
            self._meter.add(self._stage, began_at.elapsed_time(ended_at) / 1000)
