"""Linear layers whose weights lie as MKL reads them: steps of few tokens, which wait for weights, take half the time.

MKL packs for a number of rows. What was packed for many serves any other number as well, which Intel does not promise:
so it is tried for each shape, on the machine at hand, before a layer is trusted with it. The operators are those that
torch's own compiler packs with; torch has no public name for them, and is pinned.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TypeGuard

import torch
from torch.nn.functional import linear

PACKED_FOR = 256
"""Rows. Packed for 16, MKL is twice as slow on 128; packed for 1, as slow on 16 as without packing."""
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
TRIED_FOR = (1, 2, 3, 5, 8, 13, 16, 17, 31, 64, 129, 256, 300)

logger = logging.getLogger(__name__)


class PackedLinear(torch.nn.Module):
    """In place of a linear layer in float32 on a CPU. The weights are kept in MKL's order only."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._packed = _pack(layer.weight.detach())
        # The operator asks the unpacked weights for their shape, and reads them only if the packed ones are unfit.
        self._shape = torch.empty(1).expand(self.out_features, self.in_features)
        self._bias: torch.Tensor | None = layer.bias
        # Models ask a layer's weights for their dtype, too. One that computes with them must not get a number.
        self.weight = layer.weight.new_full((1,), torch.nan).expand(self.out_features, self.in_features)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        return _product(hidden, self._packed, self._shape, self._bias)


def pack_linears(model: torch.nn.Module) -> int:
    """Pack the plain linear layers of a model on a CPU, in float32; how many that were."""
    if not torch.backends.mkl.is_available():
        return 0
    layers = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if is_plain(layer) and _is_single_on_cpu(layer.weight) and _serves_all(*layer.weight.shape)
    ]
    for parent, name, layer in layers:
        setattr(parent, name, PackedLinear(layer))
    return len(layers)


def is_plain(layer: object) -> TypeGuard[torch.nn.Linear]:
    """Whether this is a linear layer as torch has them, and computes only what its weights say.

    Quantised ones, or their weights, are of other types; or they are torch's, and something is done around the product.
    """
    if type(layer) is not torch.nn.Linear or "forward" in vars(layer):
        return False
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, torch.nn.Parameter) or type(weight.data) is not torch.Tensor:
        return False
    hooks = layer._forward_hooks or layer._forward_pre_hooks  # noqa: SLF001 - torch has no public name for them
    return weight.dtype in _FLOATS and not hooks


def _is_single_on_cpu(weight: torch.Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32


@lru_cache
@torch.inference_mode()
def _serves_all(out_features: int, in_features: int) -> bool:
    """Whether weights of this shape that are packed once give the right products for any number of rows."""
    source = torch.Generator().manual_seed(0)
    weight = torch.randn(out_features, in_features, generator=source)
    packed = _pack(weight)
    for rows in TRIED_FOR:
        hidden = torch.randn(rows, in_features, generator=source)
        if not torch.allclose(_product(hidden, packed, weight, None), linear(hidden, weight), atol=1e-3, rtol=1e-4):
            logger.warning("MKL's packed product of (%d, %d) is wrong for %d rows", out_features, in_features, rows)
            return False
    return True


def _pack(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight, PACKED_FOR)  # noqa: SLF001 - see above
    return packed


def _product(
    hidden: torch.Tensor, packed: torch.Tensor, shape: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    rows = hidden.numel() // hidden.shape[-1]
    product: torch.Tensor = torch.ops.mkl._mkl_linear(hidden, packed, shape, bias, rows)  # noqa: SLF001 - see above
    return product
