"""From stage to stage: what layers gave goes on to the next, what was drawn goes back to the first.

Everything is sent and received in the order of steps, on both ways apart, so that nobody waits for who waits for him.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import distributed
from torch._C._distributed_c10d import FileStore

PATIENCE = timedelta(days=1)
"""A stage waits as long as nothing is asked of its slot. One whose slot or neighbour is gone is ended otherwise."""


class Arrival(Protocol):
    """Something on its way here."""

    def wait(self) -> torch.Tensor:
        """It is here for whatever is launched next."""


class Links(Protocol):
    """One stage's. Each is called once for every step that it concerns, in their order."""

    def expect(self, tokens: int) -> Arrival:
        """What the stage before gave for so many tokens, (tokens, width)."""

    def pass_on(self, given: torch.Tensor) -> None:
        """Give it to the next stage. It may be overwritten after this."""

    def hear(self, count: int) -> Arrival:
        """So many tokens that the last stage drew."""

    def tell(self, tokens: torch.Tensor) -> None:
        """Tell the first stage what was drawn. It may be overwritten after this."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Where a stage is: its number, of so many, and what it passes on: (…, width) of this dtype on this device."""

    stage: int
    stages: int
    width: int
    dtype: torch.dtype
    device: torch.device


def link(ends: Ends, rendezvous: Path) -> Links:
    """Find the other stages of the same machine through a file, and say hello to each neighbour."""
    # Multicast over NVLink can take a whole host's GPUs along when a process dies.
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    # torch warns that all sends of a group are one after the other, which is why there is one for each way.
    os.environ.setdefault("TORCH_NCCL_SHOW_EAGER_INIT_P2P_SERIALIZATION_WARNING", "false")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    cuda = ends.device.type == "cuda"
    distributed.init_process_group(
        "nccl" if cuda else "gloo",
        store=FileStore(str(rendezvous), ends.stages),
        rank=ends.stage,
        world_size=ends.stages,
        timeout=PATIENCE,
        device_id=ends.device if cuda else None,
    )
    # A group for each way from one stage to another: in one group, what is sent would wait for what is received.
    forward = [distributed.new_group([stage, stage + 1]) for stage in range(ends.stages - 1)]
    back = distributed.new_group([0, ends.stages - 1])
    links: Links = DeviceLinks(ends, forward, back) if cuda else HostLinks(ends, forward, back)
    _say_hello(links, ends)
    return links


def _say_hello(links: Links, ends: Ends) -> None:
    if ends.stage > 0:
        links.expect(1).wait()
    if ends.stage < ends.stages - 1:
        links.pass_on(torch.zeros(1, ends.width, dtype=ends.dtype, device=ends.device))
    if ends.stage == ends.stages - 1:
        links.tell(torch.zeros(1, dtype=torch.long, device=ends.device))
    if ends.stage == 0:
        links.hear(1).wait()
    if ends.device.type == "cuda":
        torch.cuda.synchronize(ends.device)


class _Received:
    def __init__(self, work: Any, tensor: torch.Tensor) -> None:
        self._work = work
        self._tensor = tensor

    def wait(self) -> torch.Tensor:
        self._work.wait()
        return self._tensor


class HostLinks:
    """Over gloo, between CPUs."""

    def __init__(self, ends: Ends, forward: Sequence[Any], back: Any) -> None:
        self._ends = ends
        self._forward = forward
        self._back = back
        self._sent: deque[tuple[Any, torch.Tensor]] = deque()

    def expect(self, tokens: int) -> Arrival:
        """Receive what the stage before gave."""
        given = torch.empty(tokens, self._ends.width, dtype=self._ends.dtype)
        before = self._ends.stage - 1
        return _Received(distributed.irecv(given, src=before, group=self._forward[before]), given)

    def pass_on(self, given: torch.Tensor) -> None:
        """Send it."""
        self._send(given, self._ends.stage + 1, self._forward[self._ends.stage])

    def hear(self, count: int) -> Arrival:
        """Receive tokens."""
        tokens = torch.empty(count, dtype=torch.long)
        return _Received(distributed.irecv(tokens, src=self._ends.stages - 1, group=self._back), tokens)

    def tell(self, tokens: torch.Tensor) -> None:
        """Send tokens."""
        self._send(tokens, 0, self._back)

    def _send(self, tensor: torch.Tensor, to: int, group: Any) -> None:
        # What is sent must live until it is, and nobody may write to it.
        copied = tensor.clone(memory_format=torch.contiguous_format)
        self._sent.append((distributed.isend(copied, dst=to, group=group), copied))
        while self._sent and self._sent[0][0].is_completed():
            self._sent.popleft()


class _Streamed:
    def __init__(self, tensor: torch.Tensor, stream: torch.cuda.Stream) -> None:
        self._tensor = tensor
        self._here = torch.cuda.Event()
        self._here.record(stream)

    def wait(self) -> torch.Tensor:
        here = torch.cuda.current_stream()
        here.wait_event(self._here)
        self._tensor.record_stream(here)
        return self._tensor


class DeviceLinks:
    """Over NCCL, between GPUs.

    Each way has a stream of its own, and what is received its own memory: the host never waits, and layers wait for
    nothing but what they are to be given.
    """

    def __init__(self, ends: Ends, forward: Sequence[Any], back: Any) -> None:
        self._ends = ends
        self._forward = forward
        self._back = back
        self._arriving, self._leaving, self._hearing, self._telling = (torch.cuda.Stream(ends.device) for _ in range(4))

    def expect(self, tokens: int) -> Arrival:
        """Receive what the stage before gave."""
        before = self._ends.stage - 1
        with torch.cuda.stream(self._arriving):
            given = torch.empty(tokens, self._ends.width, dtype=self._ends.dtype, device=self._ends.device)
            distributed.recv(given, src=before, group=self._forward[before])
        return _Streamed(given, self._arriving)

    def pass_on(self, given: torch.Tensor) -> None:
        """Send a copy."""
        self._send(given, self._ends.stage + 1, self._forward[self._ends.stage], self._leaving)

    def hear(self, count: int) -> Arrival:
        """Receive tokens."""
        with torch.cuda.stream(self._hearing):
            tokens = torch.empty(count, dtype=torch.long, device=self._ends.device)
            distributed.recv(tokens, src=self._ends.stages - 1, group=self._back)
        return _Streamed(tokens, self._hearing)

    def tell(self, tokens: torch.Tensor) -> None:
        """Send a copy of tokens."""
        self._send(tokens, 0, self._back, self._telling)

    @staticmethod
    def _send(tensor: torch.Tensor, to: int, group: Any, stream: torch.cuda.Stream) -> None:
        copied = tensor.clone(memory_format=torch.contiguous_format)
        stream.wait_stream(torch.cuda.current_stream())
        copied.record_stream(stream)
        with torch.cuda.stream(stream):
            distributed.send(copied, dst=to, group=group)
