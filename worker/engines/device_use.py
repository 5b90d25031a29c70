"""How much of a GPU is in use: by everybody on it, as its driver says."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """A GPU now. ``busy`` is the part of the last moment (0-1) in which it computed; None where nobody says."""

    name: str
    used_bytes: int
    total_bytes: int
    busy: float | None


def look(device: torch.device) -> DeviceUse | None:
    """None for a device that is no GPU: its memory is the machine's."""
    if device.type != "cuda":
        return None
    import torch  # noqa: PLC0415 - the engine has imported it

    free, total = torch.cuda.mem_get_info(device)
    return DeviceUse(str(device), total - free, total, _busy(device.index))


def _busy(index: int) -> float | None:
    if find_spec("pynvml") is None:
        return None
    import torch  # noqa: PLC0415 - as above
    from pynvml import NVMLError  # noqa: PLC0415 - only a process with a GPU needs it

    try:
        return torch.cuda.utilization(index) / 100
    except (NVMLError, RuntimeError) as error:
        # Of a part of a GPU, for one, the driver does not tell.
        logger.debug("nobody says how busy %s is: %s", index, error)
        return None
