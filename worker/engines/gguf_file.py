"""A causal model out of one GGUF file, in one pass.

transformers and the gguf package can read these too, but parse the file three times with an array a token: 17 s for
135M weights where this takes 1.7. What is not understood is refused, since a tensor left out would be a silent error.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from ktqueue.errors import ConfigurationError

_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

_CONFIG = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_SPECIAL_TOKENS = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "padding_token_id": "pad_token_id"}
_OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TENSOR = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<part>\w+)\.(?P<kind>weight|bias)")


class Tensor(NamedTuple):
    """Where a tensor lies: ``offset`` in bytes from the start of the file, ``shape`` as torch has it."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int


class GgufFile:
    """The metadata and the tensors of one file, which is mapped and not read."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 24
        magic, version, tensors, entries = struct.unpack_from("<4sIQQ", self._bytes)
        if magic != b"GGUF" or version not in {2, 3}:
            raise ConfigurationError(f"{path}: not a GGUF file of version 2 or 3")
        self.metadata: dict[str, Any] = {self._string(): self._value(self._number("I")) for _ in range(entries)}
        infos = [self._tensor() for _ in range(tensors)]
        alignment = self.metadata.get("general.alignment", 32)
        start = -(-self._at // alignment) * alignment
        self.tensors = {name: info._replace(offset=start + info.offset) for name, info in infos}

    def read(self, tensor: Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The values of one tensor."""
        block, width = GGML_QUANT_SIZES[tensor.kind]
        shape = (*tensor.shape[:-1], tensor.shape[-1] // block * width)
        raw = np.frombuffer(self._bytes, np.uint8, math.prod(shape), tensor.offset).reshape(shape)
        values = np.require(dequantize(raw, tensor.kind), requirements=["C", "W"])
        return torch.from_numpy(values).to(dtype).reshape(tensor.shape)

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._bytes, self._at)
        self._at += struct.calcsize(f"<{code}")
        return value

    def _string(self) -> str:
        length = self._number("Q")
        self._at += length
        return self._bytes[self._at - length : self._at].decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._skip_array(self._number("I"), self._number("Q"))
        return self._number(_NUMBERS[kind])

    def _skip_array(self, kind: int, count: int) -> None:
        """Arrays hold the vocabulary, which the tokenizer reads for itself."""
        if kind != _STRING:
            self._at += count * struct.calcsize(f"<{_NUMBERS[kind]}")
            return
        for _ in range(count):
            self._at += 8 + _LENGTH.unpack_from(self._bytes, self._at)[0]

    def _tensor(self) -> tuple[str, Tensor]:
        name, dimensions = self._string(), self._number("I")
        shape = [self._number("Q") for _ in range(dimensions)]
        kind, offset = GGMLQuantizationType(self._number("I")), self._number("Q")
        return name, Tensor(kind, tuple(reversed(shape)), offset)


def load_gguf(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Load the model. Raises ConfigurationError if the file holds anything that is not understood."""
    try:
        file = GgufFile(path)
    except (struct.error, KeyError, ValueError) as error:
        raise ConfigurationError(f"{path}: not a whole GGUF file: {error}") from error
    architecture = file.metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise ConfigurationError(f"{path}: architecture {architecture!r} can't be read from GGUF; these can: {known}")
    config = _config(file, architecture)
    weights = {_name(path, name): _weight(file, name, config, dtype) for name in file.tensors}
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model: PreTrainedModel
    model, report = model_class.from_pretrained(
        None, config=config, state_dict=weights, dtype=dtype, output_loading_info=True
    )
    # What is tied to another tensor is in neither of these.
    if strange := sorted({*report["missing_keys"], *report["unexpected_keys"]}):
        raise ConfigurationError(f"{path}: has not the weights of a {architecture} model: {', '.join(strange[:3])}")
    return model


def _config(file: GgufFile, architecture: str) -> PreTrainedConfig:
    data: Mapping[str, Any] = file.metadata
    if data.get(f"{architecture}.rope.scaling.type", "none") != "none":
        raise ConfigurationError("scaled rotary embeddings can't be read from GGUF")
    fields = {field: data[f"{architecture}.{key}"] for key, field in _CONFIG.items() if f"{architecture}.{key}" in data}
    fields |= {
        field: data[f"tokenizer.ggml.{key}"]
        for key, field in _SPECIAL_TOKENS.items()
        if f"tokenizer.ggml.{key}" in data
    }
    rope = {"rope_type": "default", "rope_theta": data.get(f"{architecture}.rope.freq_base", 10_000.0)}
    return AutoConfig.for_model(
        architecture,
        **fields,
        rope_parameters=rope,
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        tie_word_embeddings="output.weight" not in file.tensors,
    )


def _name(path: Path, tensor: str) -> str:
    match = _TENSOR.fullmatch(tensor)
    if match is not None and match["layer"] is None and match["part"] in _OUTER:
        return f"{_OUTER[match['part']]}.{match['kind']}"
    if match is not None and match["layer"] is not None and match["part"] in _INNER:
        return f"model.layers.{match['layer']}.{_INNER[match['part']]}.{match['kind']}"
    raise ConfigurationError(f"{path}: holds {tensor!r}, which can't be read from GGUF")


def _weight(file: GgufFile, name: str, config: PreTrainedConfig, dtype: torch.dtype) -> torch.Tensor:
    values = file.read(file.tensors[name], dtype)
    heads = {"attn_q.": config.num_attention_heads, "attn_k.": config.num_key_value_heads}
    for part, count in heads.items():
        if config.model_type == "llama" and f".{part}" in name:
            # llama.cpp stores these with a head's rotary pairs side by side, transformers in two halves.
            pairs = values.reshape(count, values.shape[0] // count // 2, 2, *values.shape[1:])
            return pairs.swapaxes(1, 2).reshape(values.shape)
    return values
