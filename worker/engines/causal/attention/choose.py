"""Which attention a device, a dtype and a model's layers get. What one needs is imported only when it is chosen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch.torch_version import TorchVersion

from ktqueue.errors import ConfigurationError
from worker.engines.causal.attention.base import Attention, LayerShape
from worker.engines.causal.attention.flash_installed import FlashInstalled, installed
from worker.engines.causal.attention.flash_pages import FlashPages, unfit
from worker.engines.causal.attention.gathered import Gathered
from worker.engines.causal.attention.reference import Reference
from worker.engines.causal.attention.trial import fault_of
from worker.engines.device import has_compiler

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Need:
    """What is to be computed, and where. What can't follow pages may keep ``keep_tokens`` outside, in each layer."""

    device: torch.device
    dtype: torch.dtype
    shapes: Sequence[LayerShape] = ()
    keep_tokens: int = 0


def choose(need: Need, wanted: str = "auto") -> Attention:
    """The attention named ``wanted``; ``auto`` is the fastest that there is here.

    Raises ConfigurationError for one that can't be had, and says why.
    """
    if wanted == "auto":
        wanted = next(name for name, backend in _BACKENDS.items() if backend.why_not(need) is None)
    if wanted not in _BACKENDS:
        raise ConfigurationError(f"no attention named {wanted!r}; there are: auto, {', '.join(_BACKENDS)}")
    backend = _BACKENDS[wanted]
    if (reason := backend.why_not(need)) is not None:
        raise ConfigurationError(f"attention {wanted!r} {reason}")
    return backend.make(need)


def _triton(need: Need) -> Attention:
    from worker.engines.causal.attention.triton import TritonAttention  # noqa: PLC0415 - imports triton

    return TritonAttention(torch.cuda.get_device_properties(need.device).multi_processor_count)


def _varlen(_: Need) -> Attention:
    from worker.engines.causal.attention.varlen import Varlen  # noqa: PLC0415 - not in every torch

    return FlashPages(Varlen())


def _flash(_: Need) -> Attention:
    return FlashPages(FlashInstalled(installed()))


def _why_not_triton(need: Need) -> str | None:
    if find_spec("triton") is None:
        return "needs the package triton, which is not installed"
    if not has_compiler():
        return "needs a C compiler, to make its kernels callable"
    return _why_not_cuda(need)


def _why_not_varlen(need: Need) -> str | None:
    if TorchVersion(torch.__version__) < "2.13":
        return f"needs torch 2.13 or newer; this is {torch.__version__}"
    return _why_not_cuda(need) or unfit(need.shapes, softcaps=False) or _fault(_varlen(need), need)


def _why_not_flash(need: Need) -> str | None:
    reason = _why_not_cuda(need) or unfit(need.shapes, softcaps=True)
    if reason is not None:
        return reason
    try:
        return _fault(_flash(need), need)
    except ImportError as error:
        return f"needs FlashAttention-2 to be installed: {error}"


def _fault(attention: Attention, need: Need) -> str | None:
    fault = fault_of(attention, need.device, need.dtype, need.shapes)
    if fault is not None:
        # What is there and does not work is somebody's to mend, though `auto` goes on to the next.
        logger.warning("attention %r %s", attention.name, fault)
    return fault


def _why_not_cuda(need: Need) -> str | None:
    if need.device.type != "cuda":
        return f"runs on CUDA, not on {need.device.type}"
    if need.dtype not in {torch.bfloat16, torch.float16}:
        return f"computes in bfloat16 or float16, not in {str(need.dtype).removeprefix('torch.')}"
    if torch.cuda.get_device_capability(need.device) < (8, 0):
        return "needs a GPU of compute capability 8.0 or newer"
    return None


def _nothing(_: Need) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class _Backend:
    """How to make it, and why it can't be had, if it can't."""

    make: Callable[[Need], Attention]
    why_not: Callable[[Need], str | None]


_BACKENDS: Mapping[str, _Backend] = {
    "triton": _Backend(_triton, _why_not_triton),
    "varlen": _Backend(_varlen, _why_not_varlen),
    "flash": _Backend(_flash, _why_not_flash),
    "gathered": _Backend(lambda need: Gathered(need.keep_tokens), _nothing),
    "reference": _Backend(lambda _: Reference(), _nothing),
}
