"""Root-mean-square norms as one operator of torch's instead of the six that model classes write them in."""

from __future__ import annotations

import torch
from torch.nn.functional import rms_norm


class _FusedNorm(torch.nn.Module):
    """`rms_norm` over the last dimension."""

    def __init__(self, weight: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self._weight = weight
        self._shape = tuple(weight.shape)
        self._epsilon = epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, dim) to the same."""
        return rms_norm(hidden, self._shape, self._weight, self._epsilon)


def fuse_norms(model: torch.nn.Module) -> int:
    """Replace the norms that are bit for bit what torch's operator gives, in their dtype; how many there were."""
    norms = [
        (parent, name, fused)
        for parent in model.modules()
        for name, norm in parent.named_children()
        if type(norm).__name__.endswith("RMSNorm") and (fused := _fused(norm)) is not None
    ]
    for parent, name, fused in norms:
        setattr(parent, name, fused)
    return len(norms)


@torch.inference_mode()
def _fused(norm: torch.nn.Module) -> _FusedNorm | None:
    weight, epsilon = getattr(norm, "weight", None), _epsilon(norm)
    if not isinstance(weight, torch.Tensor) or epsilon is None:
        return None
    source = torch.Generator().manual_seed(0)
    probe = torch.randn(16, *weight.shape, generator=source).to(weight.device, weight.dtype)
    # Gemma's weights are what is added to 1.
    for scale in (weight.detach(), 1.0 + weight.detach()):
        fused = _FusedNorm(scale, epsilon)
        if torch.equal(fused(probe), norm(probe)):
            return fused
    return None


def _epsilon(norm: torch.nn.Module) -> float | None:
    for name in ("variance_epsilon", "eps"):
        if isinstance(value := getattr(norm, name, None), float):
            return value
    return None
