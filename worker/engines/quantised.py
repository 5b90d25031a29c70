"""Weights that were saved quantised: transformers' own methods, with what each of them needs to be told."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AutoHfQuantizer

from ktqueue.errors import ConfigurationError
from worker.engines.packed import is_plain

SEEN = ("torchao", "bitsandbytes", "compressed-tensors")
"""The methods whose answers were compared with those of `generate`."""

_TOLD: Mapping[str, Mapping[str, Any]] = {
    # Left packed, its weights are unpacked in the first forward of a whole model, which stages never run, and are
    # rounded again in every forward after it.
    "compressed-tensors": {"dequantize": True},
}

logger = logging.getLogger(__name__)


def method_of(config: PreTrainedConfig) -> str | None:
    """By which method a model's weights are quantised; None if they are not."""
    told = _entries(config)
    if told is None:
        return None
    if told.get("load_in_8bit") or told.get("load_in_4bit"):
        return "bitsandbytes"
    return str(told.get("quant_method", "an unnamed method"))


def load_model(
    family: Any, alias: str, name: str, config: PreTrainedConfig, device: torch.device, **more: Any
) -> PreTrainedModel:
    """``family.from_pretrained``, for weights of any kind.

    Raises ConfigurationError for quantised weights that can't be had as they were meant: then the rest would be random.
    """
    model: PreTrainedModel
    method = method_of(config)
    if method is None:
        model = family.from_pretrained(name, **more)
        return model
    with _clear_errors(alias, method):
        told = _entries(config)
        if not AutoHfQuantizer.supports_quant_method(told):
            raise ValueError("transformers does not know this method")
        told.update(_TOLD.get(method, {}))
        model, report = family.from_pretrained(
            name, config=config, output_loading_info=True, **_place(method, device), **more
        )
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"it has no {', '.join(missing[:3])}")
    _check_dtype(model, alias, method, more["dtype"])
    if device.type == "cuda":
        # What loading took is free again, and is to be seen as that when room for keys and values is looked for.
        torch.cuda.empty_cache()
    logger.info("%s: weights quantised by %s; %s", alias, method, _described(model))
    return model


def _entries(config: PreTrainedConfig) -> Any:
    return getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )


def _place(method: str, device: torch.device) -> dict[str, Any]:
    """Where to load: bitsandbytes would take the current GPU, if there is one, and packs for where it loads to."""
    return {"device_map": {"": device}} if method == "bitsandbytes" else {}


def _described(model: PreTrainedModel) -> str:
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    quantised = sum(not is_plain(layer) for layer in layers)
    if not quantised:
        return f"unpacked to {model.dtype}"
    return f"{quantised} of {len(layers)} linear layers, which are not merged or packed"


def _check_dtype(model: PreTrainedModel, alias: str, method: str, dtype: torch.dtype) -> None:
    """Weights of torchao remember what they were quantised from, and most kinds can be multiplied by nothing else."""
    for layer in model.modules():
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, torch.Tensor) or type(weight.data) is torch.Tensor or weight.dtype == dtype:
            continue
        was = str(weight.dtype).removeprefix("torch.")
        raise ConfigurationError(
            f'model {alias!r}: its weights are quantised by {method} for {was}: set dtype = "{was}"'
        )


@contextmanager
def _clear_errors(alias: str, method: str) -> Iterator[None]:
    """Whatever transformers or a method's package says, in one line with what to do."""
    where = f"model {alias!r}: its weights are quantised by {method}"
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{where}, which takes the package {error.name!r}: install it for the workers"
        ) from error
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        advice = f"weights that are not quantised, or by {', '.join(SEEN)}, are known to work"
        raise ConfigurationError(f"{where}, and can't be loaded: {reason}; {advice}") from error
