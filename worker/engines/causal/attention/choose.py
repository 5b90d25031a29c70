"""Which attention a device and a dtype get. What a backend needs is imported only when it is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch.torch_version import TorchVersion

from ktqueue.errors import ConfigurationError
from worker.engines.causal.attention.base import Attention
from worker.engines.causal.attention.gathered import Gathered
from worker.engines.causal.attention.reference import Reference
from worker.engines.device import has_compiler


def choose(device: torch.device, dtype: torch.dtype, wanted: str = "auto", *, keep_tokens: int = 0) -> Attention:
    """The attention named ``wanted``; ``auto`` is the fastest that there is here.

    One that can't follow pages may keep ``keep_tokens`` outside of them, in each layer.

    Raises ConfigurationError for one that can't be had, and says why.
    """
    if wanted == "auto":
        wanted = next(name for name, backend in _BACKENDS.items() if backend.why_not(device, dtype) is None)
    if wanted not in _BACKENDS:
        raise ConfigurationError(f"no attention named {wanted!r}; there are: auto, {', '.join(_BACKENDS)}")
    backend = _BACKENDS[wanted]
    if (reason := backend.why_not(device, dtype)) is not None:
        raise ConfigurationError(f"attention {wanted!r} {reason}")
    return backend.make(device, keep_tokens)


def _triton(device: torch.device, _: int) -> Attention:
    from worker.engines.causal.attention.triton import TritonAttention  # noqa: PLC0415 - imports triton

    return TritonAttention(torch.cuda.get_device_properties(device).multi_processor_count)


def _varlen(_: torch.device, __: int) -> Attention:
    from worker.engines.causal.attention.varlen import VarlenAttention  # noqa: PLC0415 - not in every torch

    return VarlenAttention()


def _why_not_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    if find_spec("triton") is None:
        return "needs the package triton, which is not installed"
    if not has_compiler():
        return "needs a C compiler, to make its kernels callable"
    return _why_not_flash(device, dtype)


def _why_not_varlen(device: torch.device, dtype: torch.dtype) -> str | None:
    if TorchVersion(torch.__version__) < "2.13":
        return f"needs torch 2.13 or newer; this is {torch.__version__}"
    return _why_not_flash(device, dtype)


def _why_not_flash(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return f"runs on CUDA, not on {device.type}"
    if dtype not in {torch.bfloat16, torch.float16}:
        return f"computes in bfloat16 or float16, not in {str(dtype).removeprefix('torch.')}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "needs a GPU of compute capability 8.0 or newer"
    return None


def _nothing(_: torch.device, __: torch.dtype) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class _Backend:
    """How to make it, and why it can't be had, if it can't."""

    make: Callable[[torch.device, int], Attention]
    why_not: Callable[[torch.device, torch.dtype], str | None]


_BACKENDS: Mapping[str, _Backend] = {
    "triton": _Backend(_triton, _why_not_triton),
    "varlen": _Backend(_varlen, _why_not_varlen),
    "gathered": _Backend(lambda _, keep_tokens: Gathered(keep_tokens), _nothing),
    "reference": _Backend(lambda _, __: Reference(), _nothing),
}
