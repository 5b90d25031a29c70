"""The slot's side: it starts a process a stage, orders steps, and collects what the last stage draws."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ktqueue.errors import ConfigurationError
from ktqueue.models import ModelSpec
from ktqueue.process import end_with_parent
from worker.engines.causal.flight import Flight, Landed
from worker.engines.causal.pipeline.messages import Order, landed_of
from worker.engines.causal.pipeline.meter import Meter
from worker.engines.causal.pipeline.wire import Channel
from worker.engines.causal.sampler import Entry
from worker.engines.causal.scheduler import Plan
from worker.engines.causal.step import StepWriter
from worker.engines.trouble import DeviceLost

_LEAVING_S = 5.0
"""A stage whose slot has closed its socket ends at once; one that does not is killed."""


class Stages:
    """The processes of one model's stages, one on each of ``devices``. They end with this process."""

    def __init__(self, spec: ModelSpec, devices: Sequence[str], *, threads: int) -> None:
        self.meter = Meter(len(devices))
        self._folder = tempfile.TemporaryDirectory(prefix="ktqueue-stages-")
        self._devices = devices
        self._channels: list[Channel] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for number, device in enumerate(devices):
            self._start()
            self._channels[-1].send(
                {
                    "spec": spec.model_dump(mode="json", exclude_unset=True) | {"alias": spec.alias},
                    "stage": number,
                    "stages": len(devices),
                    "device": device,
                    "threads": threads,
                    "rendezvous": str(Path(self._folder.name, "rendezvous")),
                    "meter": self.meter.descriptor,
                }
            )

    def tell(self, message: dict[str, Any], arrays: Sequence[np.ndarray[Any, Any]] = ()) -> None:
        """Tell all stages the same. Raises DeviceLost."""
        for stage, channel in enumerate(self._channels):
            self._send(stage, channel, message, arrays)

    def tell_each(self, messages: Sequence[dict[str, Any]]) -> None:
        """Tell each stage its own. Raises DeviceLost."""
        for stage, (channel, message) in enumerate(zip(self._channels, messages, strict=True)):
            self._send(stage, channel, message, ())

    def hear_all(self) -> list[dict[str, Any]]:
        """One message of each stage. Raises ConfigurationError if a stage does, and DeviceLost."""
        heard: dict[int, dict[str, Any]] = {}
        while len(heard) < len(self._channels):
            for stage in self._ready():
                heard[stage], _ = self._receive(stage)
        return [heard[stage] for stage in range(len(self._channels))]

    def hear_last(self) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
        """The next message of the last stage. Raises DeviceLost if any of them is gone."""
        last = len(self._channels) - 1
        while True:
            # The others have nothing to say any more but that something is wrong.
            for stage in self._ready():
                told = self._receive(stage)
                if stage == last:
                    return told

    def close(self) -> None:
        """End them; they are gone when this returns."""
        for channel in self._channels:
            channel.close()
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LEAVING_S)
            process.kill()
            process.wait()
        self._folder.cleanup()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._channels.append(Channel(ours))
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "worker.engines.causal.pipeline", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), self.meter.descriptor),
                preexec_fn=end_with_parent,  # noqa: PLW1509 - it asks the kernel for one thing
            )
        self._processes.append(process)

    def _ready(self) -> list[int]:
        readable, _, _ = select.select(self._channels, [], [])
        return [stage for stage, channel in enumerate(self._channels) if channel in readable]

    def _send(self, stage: int, channel: Channel, message: dict[str, Any], arrays: Sequence[Any]) -> None:
        try:
            channel.send(message, arrays)
        except OSError as error:
            raise self._lost(stage) from error

    def _receive(self, stage: int) -> tuple[dict[str, Any], list[np.ndarray[Any, Any]]]:
        try:
            message, arrays = self._channels[stage].receive()
        except EOFError as error:
            raise self._lost(stage) from error
        if "error" not in message:
            return message, arrays
        if message["configuration"]:
            raise ConfigurationError(message["error"])
        raise DeviceLost(f"stage {stage} on {self._devices[stage]}: {message['error']}")

    def _lost(self, stage: int) -> DeviceLost:
        return DeviceLost(f"stage {stage} on {self._devices[stage]} is gone")


class Staged:
    """Runs plans on stages that are ready."""

    def __init__(self, stages: Stages, writer: StepWriter, *, slots: int) -> None:
        self.stages = stages
        self._writer = writer
        self._number = 0
        self._landed = 0
        self._drew = np.zeros(slots, dtype=np.int64)
        self._released: list[int] = []

    def launch(self, plan: Plan, entries: Sequence[Entry]) -> Flight:
        """Order a step. Raises DeviceLost."""
        self._number += 1
        step = self._writer.write(plan)
        # What has landed is at the first stage, or nearly; told, it takes it up, though nobody should decode for long.
        needs = max(self._landed, int(self._drew[step.slots[: step.decodes]].max(initial=0)))
        self._drew[step.drawing] = self._number
        self.stages.tell(*Order(self._number, needs, self._released, entries, step).message())
        self._released = []
        return _Far(self, self._number)

    def release(self, slot: int) -> None:
        """A slot is free: told with the next step."""
        self._released.append(slot)

    def land(self, number: int) -> Landed:
        """Wait for the step of this ``number``, which comes next. Raises DeviceLost, also where another does."""
        message, arrays = self.stages.hear_last()
        if message["number"] != number:
            # Its tokens would be somebody else's.
            raise DeviceLost(f"step {message['number']} came for step {number}")
        self._landed = number
        return landed_of(message, arrays)


class _Far:
    """A flight that the last stage answers; they land in the order in which they were launched."""

    def __init__(self, staged: Staged, number: int) -> None:
        self._staged = staged
        self._number = number

    def land(self) -> Landed:
        """Wait for it. Raises DeviceLost."""
        return self._staged.land(self._number)


def threads_each(spec: ModelSpec, stages: int) -> int:
    """CPU threads a stage computes with: the model's own number, or a fair part of the cores."""
    return spec.threads or max(1, (os.cpu_count() or 1) // stages)
