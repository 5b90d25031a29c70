"""FlashAttention-2 where it is installed: as the package flash-attn, or as built for the Hugging Face hub.

A kernel of the hub is code that somebody else built. It is used where its user has put it into the hub's cache, and
is never downloaded here.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeAlias

import torch

from worker.engines.causal.attention.base import Pages
from worker.engines.causal.attention.flash_pages import Rows

HUB = "kernels-community/flash-attn2"
HUB_VERSION = 4
"""The one that transformers takes, too."""

Varlen: TypeAlias = Callable[..., torch.Tensor]
"""``flash_attn_varlen_func``: the same in both."""


class FlashInstalled:
    """Implements `Kernel`."""

    name = "flash"
    softcaps = True

    def __init__(self, call: Varlen) -> None:
        self._call = call

    def __call__(
        self, query: torch.Tensor, pages: Pages, rows: Rows, *, scale: float, window: int | None, softcap: float | None
    ) -> torch.Tensor:
        """As `Kernel` has it."""
        return self._call(
            query,
            pages.keys,
            pages.values,
            rows.starts,
            rows.key_starts,
            rows.most_queries,
            rows.most_keys,
            softmax_scale=scale,
            causal=True,
            # Where `causal` says it all, nothing else may: only so are heads that share keys computed together.
            window_size=(-1, -1) if window is None else (window - 1, 0),
            softcap=softcap or 0.0,
            block_table=rows.tables,
        )


def installed() -> Varlen:
    """What is installed. Raises ImportError, which says what would have to be, or what is wrong with it."""
    if find_spec("flash_attn") is not None:
        return _of(import_module("flash_attn"))
    if find_spec("kernels") is None:
        raise ImportError(f"neither flash-attn is, nor kernels, which would find {HUB}")
    kernels: Any = import_module("kernels")
    try:
        folder = kernels.install_kernel(HUB, version=HUB_VERSION, local_files_only=True)
        return _of(kernels.get_local_kernel(folder))
    # The last two are of releases of kernels that are called otherwise.
    except (FileNotFoundError, ValueError, TypeError, AttributeError) as error:
        message = f"flash-attn is not, and kernels finds no version {HUB_VERSION} of {HUB} in the hub's cache: {error}"
        raise ImportError(message) from error


def _of(module: Any) -> Varlen:
    call: Varlen = module.flash_attn_varlen_func
    return call
