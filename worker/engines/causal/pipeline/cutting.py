"""Some layers of a model, loaded without the others."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from ktqueue.errors import ConfigurationError
from ktqueue.models import ModelSpec
from worker.engines.causal.part import Part
from worker.engines.device import DTYPES
from worker.engines.gguf_file import load_gguf
from worker.engines.quantised import load_model, method_of


class Cutter:
    """Cuts parts of the model that a catalogue's entry names. Raises ConfigurationError for one of no known kind."""

    def __init__(self, spec: ModelSpec) -> None:
        self._alias = spec.alias
        self._weights = spec.weights()
        self._dtype = DTYPES[spec.dtype]
        self._whole: PreTrainedModel | None = None
        if self._weights.gguf:
            # The file is read in one pass: nothing is gained by leaving layers out.
            self._whole = load_gguf(Path(self._weights.name) / self._weights.gguf, self._dtype)
            self.config: PreTrainedConfig = self._whole.config
        else:
            self.config = AutoConfig.from_pretrained(self._weights.name, revision=self._weights.revision or "main")
        self._quantised = method_of(self.config) is not None
        self._class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(self.config), None)
        self.count: int = self.config.get_text_config().num_hidden_layers
        if self._class is None or not _goes_on(self._hollow(self._class)):
            raise ConfigurationError(
                f"model {spec.alias!r}: {self.config.model_type} models can't be spread over several devices"
            )

    def load(self, layers: range, device: torch.device) -> Part:
        """These layers with their weights; also what comes before the first of all, and after the last."""
        first, last = layers.start == 0, layers.stop == self.count
        if self._whole is None:
            return self._load(layers, device, first=first, last=last)
        model, self._whole = self._whole, None
        _cut(model, layers, first=first, last=last)
        return _part(model, layers, device, first=first, last=last)

    def sketch(self, layers: range, device: torch.device, *, first: bool, last: bool) -> Part:
        """Something that takes as long, with whatever weights; ``layers`` may be none."""
        if self._quantised:
            # Random numbers are not quantised, and take another time.
            return self._load(layers, device, first=first, last=last)
        model = self._hollow(self._cut_class(layers, first=first, last=last))
        model.to_empty(device=device)
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                torch.nn.init.normal_(tensor, std=0.02)
        return _part(model, layers, device, first=first, last=last)

    def _hollow(self, model_class: Any) -> Any:
        """A model of no weights."""
        with torch.device("meta"):
            return model_class._from_config(copy.deepcopy(self.config), dtype=self._dtype)  # noqa: SLF001

    def _load(self, layers: range, device: torch.device, *, first: bool, last: bool) -> Part:
        model = load_model(
            self._cut_class(layers, first=first, last=last),
            self._alias,
            self._weights.name,
            copy.deepcopy(self.config),
            device,
            dtype=self._dtype,
            revision=self._weights.revision or "main",
        )
        return _part(model, layers, device, first=first, last=last)

    def kinds(self) -> list[int]:
        """For each layer the number of the first that is like it."""
        model = self._hollow(self._class)
        seen: dict[Any, int] = {}
        types = getattr(self.config.get_text_config(), "layer_types", None) or [None] * self.count
        shapes = [
            (type(layer), types[index], tuple((name, each.shape) for name, each in layer.named_parameters()))
            for index, layer in enumerate(model.base_model.layers)
        ]
        return [seen.setdefault(shape, index) for index, shape in enumerate(shapes)]

    def _cut_class(self, layers: range, *, first: bool, last: bool) -> Any:
        """The model's class, of whose instances everything else is gone before weights are looked for."""
        whole = self._class

        def __init__(self: Any, config: Any, *rest: Any, **more: Any) -> None:  # noqa: N807
            whole.__init__(self, config, *rest, **more)
            _cut(self, layers, first=first, last=last)

        return type(whole.__name__, (whole,), {"__init__": __init__, "__module__": whole.__module__})


def _cut(model: Any, layers: range, *, first: bool, last: bool) -> None:
    """Leave out what is not there, keeping the names of what is."""
    base = model.base_model
    for index in range(len(base.layers)):
        if index not in layers:
            base.layers[index] = torch.nn.Identity()
    if not last:
        base.norm = torch.nn.Identity()
    # Tied weights have one name, and are looked for by both.
    if not model.config.get_text_config().tie_word_embeddings:
        _drop_ends(model, first=first, last=last)


def _drop_ends(model: Any, *, first: bool, last: bool) -> None:
    if not first:
        model.base_model.embed_tokens = None
    if not last:
        model.lm_head = None


def _part(model: Any, layers: range, device: torch.device, *, first: bool, last: bool) -> Part:
    """To a model these layers are now all that there are."""
    base, config = model.base_model, model.config.get_text_config()
    _drop_ends(model, first=first, last=last)
    if not first and hasattr(base, "embedding_multiplier"):
        # Granite and its kin multiply whatever comes before the layers, be it a token's embedding or not.
        base.embedding_multiplier = 1.0
    base.layers = torch.nn.ModuleList([base.layers[index] for index in layers])
    config.num_hidden_layers = len(layers)
    if types := getattr(config, "layer_types", None):
        config.layer_types = [types[index] for index in layers]
    torch.nn.Module.to(model, device)
    model.eval()
    model.requires_grad_(requires_grad=False)
    return Part(model, first=first, last=last)


class _Ear(torch.nn.Module):
    """In place of the norm behind the layers."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        # There may be no other weights, and a model asks its own for its device and dtype.
        self.weight = torch.nn.Parameter(torch.empty(1, dtype=dtype))
        self.heard: list[torch.Tensor] = []

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.heard.append(hidden)
        return hidden


@torch.inference_mode()
def _goes_on(hollow: Any) -> bool:
    """Whether parts behind the first give what they are given to their layers as it is, and from there to the norm."""
    if not all(hasattr(hollow.base_model, name) for name in ("layers", "norm", "embed_tokens")):
        return False
    hollow.base_model.layers = torch.nn.ModuleList()
    hollow.base_model.norm = ear = _Ear(hollow.dtype)
    _drop_ends(hollow, first=False, last=False)
    part = _part(hollow.to_empty(device="cpu"), range(0), torch.device("cpu"), first=False, last=False)
    given = torch.randn(2, part.width, dtype=part.dtype)
    after = part(given, torch.arange(2))
    return len(ear.heard) == 1 and torch.equal(ear.heard[0][0], given) and torch.equal(after, given)
