"""Linear layers whose weights lie as oneDNN multiplies them, so that no product has to rearrange them first.

torch's own float32 product on a CPU copies the weights into the order that its kernel wants, every time: with a few
rows that costs as much as the product. Ordered once, 16 rows took 0.66-0.8 of the time; one or two rows take longer,
for torch has kernels for so few that read the weights as they are.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

_ROWS = 16
"""What oneDNN orders the weights for; other numbers of rows are computed with the same order."""


class _Packed(torch.nn.Module):
    """A linear layer without gradients, in float32 on a CPU."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        # Neither is a parameter: what oneDNN ordered can't be saved, moved or converted.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)  # noqa: SLF001 - as Inductor does
        self._bias = None if bias is None else bias.detach()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(flat, self._weight, self._bias, "none", [], "")  # noqa: SLF001
        return torch.unflatten(output, 0, hidden.shape[:-1])


def can_pack(model: PreTrainedModel) -> bool:
    """Whether this torch can, and this model's weights are what it is done for."""
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return there and model.device.type == "cpu" and model.dtype == torch.float32


def pack_weights(model: torch.nn.Module) -> int:
    """Order the weights of plain linear layers; how many there are. What they were is freed, if nobody shares it."""
    found = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if type(layer) is torch.nn.Linear
    ]
    for parent, name, layer in found:
        setattr(parent, name, _Packed(layer.weight, layer.bias))
    return len(found)
