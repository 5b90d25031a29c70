"""How transformers' model classes come to our attention, and what is seen of their layers on the way.

A model passes every layer's new queries, keys and values to whatever `AttentionInterface` has under its configured
name. No mask function is registered under ours, so no masks are made, which would wait for the device. The call is an
operator of torch's, so a compiled layer stays one piece around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any, Protocol

import torch
from transformers import AttentionInterface

from ktqueue.errors import ConfigurationError
from worker.engines.causal.attention.base import LayerShape
from worker.engines.causal.part import Part
from worker.engines.positions import counts_from_padding

NAME = "ktqueue"
_KINDS = frozenset({"full_attention", "sliding_attention"})


class Layers(Protocol):
    """Attention in each layer of one forward; layers call one after the other.

    They do not say which they are: a number would have each of them compiled on its own.
    """

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """query, key and value are (tokens, heads, dim); so is the result."""


_library = torch.library.Library(NAME, "DEF")
_library.define("attend(Tensor query, Tensor key, Tensor value, float scale, int window, float softcap) -> Tensor")
_layers: list[Layers] = []


def _attend(  # noqa: PLR0917 - operators have no keywords
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int, softcap: float
) -> torch.Tensor:
    flat = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return _layers[-1].attend(*flat, scale=scale, window=window or None, softcap=softcap or None).unsqueeze(0)


def _shape_only(  # noqa: PLR0917 - as above
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int, softcap: float
) -> torch.Tensor:
    del key, scale, window, softcap
    _, heads, tokens, _ = query.shape
    return query.new_empty(1, tokens, heads, value.shape[-1])


_library.impl("attend", _attend, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAME}::attend", _shape_only, lib=_library)


def _interface(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    if attention_mask is not None or s_aux is not None:
        raise ConfigurationError("models whose attention has masks or sinks of its own can't be batched here")
    if getattr(module, "is_causal", True) is False:
        raise ConfigurationError("models that look at what comes after a token can't be batched here")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = torch.ops.ktqueue.attend(query, key, value, scale, sliding_window or 0, softcap or 0.0)
    return out, None


AttentionInterface.register(NAME, _interface)


@contextmanager
def attending(layers: Layers) -> Iterator[None]:
    """Within it, models that are `prepared` attend with these."""
    _layers.append(layers)
    try:
        yield
    finally:
        _layers.pop()


class _Recorder:
    """Sees tokens pass. Each attends to itself alone, which is right for one, and takes the same memory for many."""

    def __init__(self) -> None:
        self.seen: list[LayerShape] = []

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        del scale
        _, heads, key_dim = key.shape
        self.seen.append(LayerShape(heads, key_dim, value.shape[-1], key.dtype, window, softcap))
        return value.repeat_interleave(query.shape[1] // heads, dim=1)


def unpaged() -> Layers:
    """Attention that keeps nothing, to see what a forward takes."""
    return _Recorder()


@torch.inference_mode()
def prepare(part: Part) -> list[LayerShape]:
    """Have a model attend with us; its layers, in order. Raises ConfigurationError if it can't be batched."""
    model = part.model
    config: Any = model.config.get_text_config()
    kind, count = config.model_type, config.num_hidden_layers
    if "position_ids" not in signature(model.forward).parameters:
        raise ConfigurationError(f"{kind} models can't be batched: they are not told where a token is")
    if counts_from_padding(model):
        raise ConfigurationError(f"{kind} models can't be batched: they count positions from behind that of padding")
    layer_types = (getattr(config, "layer_types", None) or [_kind_of_all(config)] * count)[:count]
    if not set(layer_types) <= _KINDS or getattr(config, "num_kv_shared_layers", None):
        raise ConfigurationError(f"{kind} models can't be batched: not all layers have keys and values of their own")
    model.set_attn_implementation(NAME)
    recorder = _Recorder()
    with attending(recorder):
        part(part.inputs(1), torch.zeros(1, dtype=torch.long, device=part.device))
    if len(recorder.seen) != count:
        raise ConfigurationError(f"{kind} models can't be batched: their attention is their own, not transformers'")
    if any(
        seen.window is None and of == "sliding_attention" for seen, of in zip(recorder.seen, layer_types, strict=True)
    ):
        raise ConfigurationError(f"{kind} models can't be batched: their layers do not say how far they look back")
    return recorder.seen


def _kind_of_all(config: Any) -> str:
    """What all layers are where the configuration does not tell them apart: as transformers' own cache takes it."""
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        return "sliding_attention"
    return "full_attention" if getattr(config, "attention_chunk_size", None) is None else "chunked_attention"
