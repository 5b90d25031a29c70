"""Models whose weights are saved quantised, as people save them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, TorchAoConfig

from tests.conftest import unavailable
from tests.support.tiny_models import CONTEXT, VOCABULARY, byte_tokenizer, save_causal

PACKAGES = {
    "torchao int8": "torchao",
    "torchao int4": "torchao",
    "torchao float8": "torchao",
    "compressed-tensors int4": "compressed_tensors",
    "bitsandbytes nf4": "bitsandbytes",
    "bitsandbytes int8": "bitsandbytes",
}
"""What each kind of weights takes."""


def there(kind: str) -> bool:
    """Whether this machine has the package for it."""
    return find_spec(PACKAGES[kind]) is not None


def need(*packages: str) -> None:
    """Skip the test, or fail it where all packages have to be there."""
    if missing := [name for name in packages if find_spec(name) is None]:
        unavailable(f"no quantised weights, for want of {', '.join(missing)}")


def save_quantised(kind: str, folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Path:
    """A folder with a tiny Llama whose projections are quantised; widths are what kernels and groups take."""
    need(PACKAGES[kind], "accelerate")
    torch.manual_seed(9)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
        tie_word_embeddings=False,
    )
    plain = torch.nn.Module.to(LlamaForCausalLM(config), dtype)
    if kind == "compressed-tensors int4":
        return _compressed(plain, folder)
    save_causal(plain, folder / "plain")
    model = AutoModelForCausalLM.from_pretrained(
        folder / "plain", dtype=dtype, quantization_config=_METHODS[kind](dtype), device_map={"": device}
    )
    return save_causal(model, folder)


def unpacked(model: Any) -> Any:
    """A float32 model with the weights that the layers of this one multiply by: what each gives for one-hot rows."""
    config = copy.deepcopy(model.config)
    del config.quantization_config
    plain = torch.nn.Module.to(LlamaForCausalLM(config), model.device, torch.float32)
    with torch.inference_mode():
        for name, parameter in plain.named_parameters():
            if isinstance(linear := plain.get_submodule(name.removesuffix(".weight")), torch.nn.Linear):
                layer = model.get_submodule(name.removesuffix(".weight"))
                parameter.copy_(layer(torch.eye(linear.in_features, dtype=model.dtype, device=model.device)).T)
            else:
                parameter.copy_(model.get_parameter(name))
    return plain


def _torchao(name: str, _: torch.dtype, **entries: Any) -> TorchAoConfig:
    from torchao import quantization

    return TorchAoConfig(getattr(quantization, name)(**entries))


def _groups_of_int4(dtype: torch.dtype) -> TorchAoConfig:
    from torchao.quantization import PerGroup

    four_bits: torch.dtype = vars(torch)["int4"]  # it has no type stub
    return _torchao("IntxWeightOnlyConfig", dtype, weight_dtype=four_bits, granularity=PerGroup(32))


_METHODS: dict[str, Callable[[torch.dtype], Any]] = {
    "torchao int8": partial(_torchao, "Int8WeightOnlyConfig"),
    "torchao float8": partial(_torchao, "Float8WeightOnlyConfig"),
    "torchao int4": _groups_of_int4,
    "bitsandbytes nf4": lambda dtype: BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    ),
    "bitsandbytes int8": lambda _: BitsAndBytesConfig(load_in_8bit=True),
}


def _compressed(model: Any, folder: Path) -> Path:
    """Four bits in groups of 32, packed, as llm-compressor saves them."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme
    from compressed_tensors.quantization.utils import calculate_qparams

    scheme = preset_name_to_scheme("W4A16", ["Linear"])
    scheme.weights.group_size = 32
    apply_quantization_config(
        model, QuantizationConfig(config_groups={"all": scheme}, ignore=["lm_head"], quantization_status="frozen")
    )
    for layer in model.modules():
        if hasattr(layer, "weight_scale"):
            groups = layer.weight.detach().unflatten(1, (-1, 32))
            scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), scheme.weights)
            layer.weight_scale.data.copy_(scale)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    byte_tokenizer().save_pretrained(folder)
    return folder
