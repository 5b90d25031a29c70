"""From an entry of the catalogue to a loaded engine. What an engine needs is imported only when it is asked for."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping

from ktqueue.leases.base import Leases
from ktqueue.leases.memory import MemoryLeases
from ktqueue.models import EngineName, ModelSpec, Place
from worker.engines.base import Engine
from worker.engines.device_use import DeviceUse, look
from worker.engines.echo import EchoEngine


def load(spec: ModelSpec, place: Place, leases: Leases | None = None) -> Engine:
    """Load the engine that ``spec`` describes, on the devices of ``place``.

    ``leases`` say which of its servers it may use, if it has any; without them it shares those with engines of this
    process alone. Raises ConfigurationError if its weights or a device can't be used, or a server's key is not there.
    """
    if spec.engine == "openai":
        return _openai(spec, leases or _OURS)
    return _FACTORIES[spec.engine](spec, place)


def device_of(spec: ModelSpec, place: Place) -> str:
    """Where ``spec``'s engine computes in ``place``, for people. Raises ConfigurationError if that is not there."""
    if spec.engine == "echo":
        return "cpu"
    if spec.engine == "openai":
        return "other servers"
    from worker.engines.device import described  # noqa: PLC0415 - the engine has imported torch

    return ", ".join(described(spec, name) for name in place)


def device_use(spec: ModelSpec, place: Place) -> list[DeviceUse]:
    """How much of each GPU of ``place`` is in use; none of them is the machine itself. Raises ConfigurationError."""
    if spec.engine in {"echo", "openai"}:
        return []
    from worker.engines.device import choose_device  # noqa: PLC0415 - as above

    return [use for name in place if (use := look(choose_device(spec, name))) is not None]


def _echo(spec: ModelSpec, _place: Place) -> Engine:
    return EchoEngine(max_batch=spec.max_batch, faults=spec.faults, clock=time.monotonic, sleep=time.sleep)


def _encoder(spec: ModelSpec, place: Place) -> Engine:
    before_torch()
    from worker.engines.loading import load_encoder  # noqa: PLC0415 - torch and transformers, seconds and 300 MB

    return load_encoder(spec, place)


def _causal(spec: ModelSpec, place: Place) -> Engine:
    before_torch()
    from worker.engines.loading import load_causal  # noqa: PLC0415 - as above

    return load_causal(spec, place)


def _openai(spec: ModelSpec, leases: Leases) -> Engine:
    from worker.engines.upstream.loading import load_upstream  # noqa: PLC0415 - httpx, for those who need it

    return load_upstream(spec, leases, os.environ)


def before_torch() -> None:
    """Say what is heard only while torch and transformers are imported.

    OpenMP threads sleep while they wait. They would spin, and where processes share cores, take the time of the very
    thread they wait for: with one busy neighbour on two cores a small forward took 116 ms, and 21 ms like this.

    Where torchao is installed, transformers imports it, and it tells of kernels for GPUs that it can't load here.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


_FACTORIES: Mapping[EngineName, Callable[[ModelSpec, Place], Engine]] = {
    "echo": _echo,
    "encoder": _encoder,
    "causal": _causal,
}
_OURS = MemoryLeases()
