"""Makes a model's layers quicker without changing what they compute: fewer, larger products, and compiled layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from worker.engines.packed import is_plain

_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Projections that model classes call one after the other with the same input."""


class _Merged(torch.nn.Module):
    """Several linear layers as one product, which the first of them computes and the others take their part of."""

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        super().__init__()
        weight = _joined([layer.weight for layer in layers])
        # All have one or none has.
        biases: list[torch.Tensor | None] = [layer.bias for layer in layers]
        bias = _joined([each for each in biases if each is not None]) if biases[0] is not None else None
        self.product = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.product.weight = weight
        if bias is not None:
            self.product.bias = bias
        self.widths = [layer.out_features for layer in layers]

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(…, in) to (…, out) of each."""
        return torch.split(self.product(hidden), self.widths, -1)


class _First(torch.nn.Module):
    """In place of the first of the layers that were merged: computes all, and leaves them where the others look."""

    def __init__(self, merged: _Merged, outputs: list[torch.Tensor]) -> None:
        super().__init__()
        self._merged = merged
        self._outputs = outputs

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        self._outputs[:] = self._merged(hidden)
        return self._outputs[0]


class _Next(torch.nn.Module):
    """In place of another one. The last leaves nothing behind, so that nothing is kept longer than it is needed."""

    def __init__(self, outputs: list[torch.Tensor], index: int, *, last: bool) -> None:
        super().__init__()
        self._outputs = outputs
        self._index = index
        self._last = last

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        output = self._outputs[self._index]
        if self._last:
            self._outputs.clear()
        return output


def _joined(parts: Sequence[torch.Tensor]) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.cat(list(parts)), requires_grad=False)


def merge_projections(model: PreTrainedModel) -> int:
    """Compute projections of the same input as one product; how many products are saved a forward.

    Only plain linear layers are merged, so quantised ones stay as they are.
    """
    saved = 0
    for module in model.modules():
        for names in _TOGETHER:
            layers = [layer for name in names if is_plain(layer := getattr(module, name, None))]
            if len(layers) == len(names) and len({layer.bias is None for layer in layers}) == 1:
                _merge(module, names, layers)
                saved += len(names) - 1
    return saved


def _merge(module: torch.nn.Module, names: Sequence[str], layers: Sequence[torch.nn.Linear]) -> None:
    outputs: list[torch.Tensor] = []
    setattr(module, names[0], _First(_Merged(layers), outputs))
    for index, name in enumerate(names[1:], 1):
        setattr(module, name, _Next(outputs, index, last=name == names[-1]))


def compile_layers(model: PreTrainedModel) -> int:
    """Have torch compile the decoder's layers, for any number of tokens; how many there are.

    One by one, since they are alike: what is compiled for the first serves all.
    """
    layers = max(
        (module for module in model.modules() if isinstance(module, torch.nn.ModuleList)), key=len, default=None
    )
    for layer in layers or ():
        layer.compile(dynamic=True)
    return len(layers or ())
