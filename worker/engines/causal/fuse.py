"""Makes a model's layers quicker without changing what they compute: fewer, larger products, and compiled layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

_TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Projections that model classes call one after the other with the same input."""


class _Merged(torch.nn.Module):
    """Several linear layers as one product, which its first part computes and the others take from."""

    def __init__(self, layers: Sequence[torch.nn.Linear]) -> None:
        super().__init__()
        self.weight = _joined([layer.weight for layer in layers])
        # All have one or none has.
        self.bias: torch.Tensor | None = layers[0].bias
        if self.bias is not None:
            self.bias = _joined([layer.bias for layer in layers])
        self.output: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, all of out)."""
        return torch.nn.functional.linear(hidden, self.weight, self.bias)


class _Part(torch.nn.Module):
    """In place of one of the layers that were merged: its columns of the product."""

    def __init__(self, merged: _Merged, start: int, width: int, *, first: bool, last: bool) -> None:
        super().__init__()
        self._merged = merged
        self._start = start
        self._width = width
        self._first = first
        self._last = last

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, width)."""
        output = self._merged(hidden) if self._first else self._merged.output
        self._merged.output = None if self._last else output
        assert isinstance(output, torch.Tensor)
        return output.narrow(-1, self._start, self._width)


def _joined(parts: Sequence[torch.Tensor]) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.cat(list(parts)), requires_grad=False)


def merge_projections(model: PreTrainedModel) -> int:
    """Compute projections of the same input as one product; how many products are saved a forward.

    Only plain linear layers are merged, so quantised ones stay as they are.
    """
    saved = 0
    for module in model.modules():
        for names in _TOGETHER:
            layers = [getattr(module, name, None) for name in names]
            if all(_is_plain(layer) for layer in layers):
                saved += _merge(module, names)
    return saved


def _is_plain(layer: object) -> bool:
    # Quantised weights are tensors of other types, if not in layers of other types.
    return type(layer) is torch.nn.Linear and type(layer.weight.data) is torch.Tensor


def _merge(module: torch.nn.Module, names: Sequence[str]) -> int:
    layers = [module.get_submodule(name) for name in names]
    linear = [layer for layer in layers if isinstance(layer, torch.nn.Linear)]
    if len({layer.bias is None for layer in linear}) > 1:
        return 0
    merged = _Merged(linear)
    start = 0
    for name, layer in zip(names, linear, strict=True):
        first, last = name == names[0], name == names[-1]
        setattr(module, name, _Part(merged, start, layer.out_features, first=first, last=last))
        start += layer.out_features
    return len(names) - 1


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
